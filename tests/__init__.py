"""A package, since one that is installed (torch-fidelity) brings a package of the same name."""
