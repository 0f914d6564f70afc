"""What Monty's checkout has as ``run_parallel.py``, and its wheel has not."""

from tbp.monty.frameworks.run_env import setup_env

setup_env()

from tbp.monty.frameworks.run_parallel import main  # noqa: E402 - it reads what was set up

if __name__ == "__main__":
    main()
