"""Locates the parts of the package that a checkout keeps at its top level.

A wheel installs a single top-level package, `cardiff`, that contains everything: cardiff/schedulers,
cardiff/pipelines, and cardiff/scripts with the scripts, configs/, models/ and the files of data/ (setup.cfg
maps them). In a checkout they are next to cardiff/. Both use the names `cardiff.schedulers`, `cardiff.pipelines` and
`cardiff.scripts`: in a checkout an import finder looks them up at the top level.

Alternatives considered: packages named `schedulers` and `pipelines` in site-packages would be shadowed by any folder
of that name in the working directory; symbolic links are not copied by every tool; and with imports rewritten during
the build, the wheel would not be the program that is tested.
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
"""The folder of the scripts, configs/, models/ and data/."""
SHIPPED_DATA = ("data/cars32.parquet", "data/cars32_test.parquet", "data/digits.parquet")
"""Images that come with the package, as configurations name them."""


def shipped_config(name: str) -> Path | None:
    """The file of a shipped configuration by its bare name, such as digits_16_conditional; None if there is none."""
    file = TOP / "configs" / f"{name.removesuffix('.yaml')}.yaml"
    return file if file.name.removesuffix(".yaml") in shipped_configs() else None


def shipped_configs() -> list[str]:
    """The bare names of all shipped configurations."""
    return sorted(file.stem for file in TOP.glob("configs/*.yaml"))


def shipped_model(name: str) -> Path | None:
    """The folder of a shipped model by its bare name, such as cars_32; None if there is none."""
    return TOP / "models" / name if name in shipped_models() else None


def shipped_models() -> list[str]:
    """The bare names of all shipped models."""
    return sorted(file.parent.parent.name for file in TOP.glob("models/*/*/config.json"))


def find_data(file: str) -> str:
    """The file as given; if it is one of SHIPPED_DATA and not in the working directory, the shipped one.

    So shipped configurations can refer to their data by the same path wherever a command runs.
    """
    shipped = TOP / file
    return str(shipped) if file in SHIPPED_DATA and not Path(file).exists() and shipped.exists() else file


class CheckoutFinder(MetaPathFinder):
    """Finds `cardiff.schedulers`, `cardiff.pipelines` and `cardiff.scripts` at the top of a checkout.

    There they can also be imported as `schedulers`, `pipelines` and, say, `train_conditional`. Both names refer to one
    module, whichever is imported first: with two copies of a class, isinstance would fail.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The finder's method for importlib; None for all other modules."""
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
    """Provides an already loaded module under its other name."""

    def __init__(self, module: ModuleType):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has replaced it


def _other_name(name: str) -> str | None:
    """`schedulers.x` for `cardiff.schedulers.x` and vice versa, likewise for the scripts; None for other modules."""
    if name.startswith(f"{_SCRIPTS}."):
        return name.removeprefix(f"{_SCRIPTS}.")
    if name.split(".")[0] in ("schedulers", "pipelines"):
        return f"cardiff.{name}"
    if name.startswith(("cardiff.schedulers", "cardiff.pipelines")):
        return name.removeprefix("cardiff.")
    return f"{_SCRIPTS}.{name}" if f"{_SCRIPTS}.{name}" in sys.modules else None
