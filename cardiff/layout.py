"""Where the parts of the package lie that a checkout keeps at its top.

A wheel puts one name into site-packages, `cardiff`, with everything inside: cardiff/schedulers, cardiff/pipelines, and
cardiff/scripts, which holds the scripts, configs/ and data/digits.parquet (setup.cfg maps them). A checkout has them
beside cardiff/. `cardiff.schedulers`, `cardiff.pipelines` and `cardiff.scripts` are their names in both: in a checkout
an import finder looks for them at its top.

Why not otherwise: packages named `schedulers` and `pipelines` in site-packages would be hidden by any folder of that
name where a user works; symbolic links are not copied by every tool, and imports rewritten while the wheel is built
would make another program of it than the one that is tested.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).parent
_SCRIPTS = "cardiff.scripts"
IS_CHECKOUT = not (_PACKAGE / "schedulers").is_dir()
"""Whether this is a checkout, and not an installed wheel."""
TOP = _PACKAGE.parent if IS_CHECKOUT else _PACKAGE / "scripts"
"""The folder of the scripts, configs/ and data/."""


def shipped_config(name: str) -> Path | None:
    """The shipped configuration of a bare name, such as digits_16_conditional; None if there is none."""
    file = TOP / "configs" / f"{name.removesuffix('.yaml')}.yaml"
    return file if file.name.removesuffix(".yaml") in shipped_configs() else None


def shipped_configs() -> list[str]:
    """The bare names of all shipped configurations."""
    return sorted(file.stem for file in TOP.glob("configs/*.yaml"))


def find_data(file: str) -> str:
    """A file of images as given; where there is none, the shipped one, such as data/digits.parquet, if that is meant.

    So shipped configurations can name their data in one way, wherever a command runs.
    """
    shipped = TOP / file
    return str(shipped) if file == "data/digits.parquet" and not Path(file).exists() and shipped.exists() else file


class CheckoutFinder(MetaPathFinder):
    """Finds `cardiff.schedulers`, `cardiff.pipelines` and `cardiff.scripts` at the top of a checkout.

    There they can also be imported as `schedulers`, `pipelines` and, say, `train_conditional`. Both names stand for
    one module, whichever is imported first: of two copies of a class only one would be known to isinstance.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What importlib asks of a finder; None for everything that is not one of these modules."""
        if name == _SCRIPTS:  # a package without an __init__.py
            scripts = ModuleSpec(name, None, is_package=True)
            scripts.submodule_search_locations = [str(TOP)]
            return scripts
        other = _other_name(name)
        if other is None:
            return None
        spec = PathFinder.find_spec(name, [str(TOP)] if name.rpartition(".")[0] == "cardiff" else path)
        loaded = sys.modules.get(other)
        if spec is not None and loaded is not None and spec.origin == getattr(loaded, "__file__", None):
            spec.loader = _Loaded(loaded)
        return spec


class _Loaded(Loader):
    """Gives a module that has been loaded its other name."""

    def __init__(self, module: ModuleType):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has replaced it


def _other_name(name: str) -> str | None:
    """`schedulers.x` for `cardiff.schedulers.x` and the other way round, and so for the scripts; None for the rest."""
    if name.startswith(f"{_SCRIPTS}."):
        return name.removeprefix(f"{_SCRIPTS}.")
    if name.split(".")[0] in ("schedulers", "pipelines"):
        return f"cardiff.{name}"
    if name.startswith(("cardiff.schedulers", "cardiff.pipelines")):
        return name.removeprefix("cardiff.")
    return f"{_SCRIPTS}.{name}" if f"{_SCRIPTS}.{name}" in sys.modules else None
