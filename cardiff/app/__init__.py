"""The app: Cardiff in a browser."""
