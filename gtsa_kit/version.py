"""Version of the package, apart from `__init__` so that modules below the public API can import it."""

__version__ = "0.1.0"
