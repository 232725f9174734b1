"""`python -m flows`: the command line."""

from flows.cli import main

# Dask workers are spawned and import this module again: without the guard each would run the command once more
if __name__ == "__main__":
    raise SystemExit(main())
