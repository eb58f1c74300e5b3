"""`python -m gtsa_kit` is `gtsa`."""

from gtsa_kit.cli import main

if __name__ == "__main__":
    main()
