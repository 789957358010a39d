"""Cardiff: class-conditional pixel diffusion models to study, train, sample, measure and publish."""

import sys

from cardiff.layout import IS_CHECKOUT, CheckoutFinder

__version__ = "0.2.0"

if IS_CHECKOUT and not any(type(finder).__name__ == CheckoutFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, CheckoutFinder())
