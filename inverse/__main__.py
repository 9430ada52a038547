"""python -m inverse"""

from inverse.cli import main

if __name__ == "__main__":
    main()
