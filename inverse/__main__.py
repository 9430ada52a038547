"""The `inverse` command as `python -m inverse`."""

from inverse.command.app import main

if __name__ == "__main__":
    main()
