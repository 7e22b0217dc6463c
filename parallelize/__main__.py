"""`python -m parallelize` and the console script."""

from parallelize.cli.main import main

if __name__ == "__main__":
    main()
