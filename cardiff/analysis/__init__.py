"""The forward-process laboratory: what a noise schedule does to a data set, measured and explained."""
