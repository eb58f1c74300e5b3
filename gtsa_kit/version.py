"""Version of the package, in a module of its own so that every module can import it without the public API; the build reads it, too."""

__version__ = "0.1.0"
