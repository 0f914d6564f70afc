"""``python -m experiments [experiment=NAME] [experiment.KEY=VALUE ...]``.

The only module here that imports Hydra: it composes ``conf/experiment.yaml``, makes the
experiment that it names and calls it. Exit status 0 when that ends as it should.
"""

import sys

import hydra
from omegaconf import DictConfig

import experiment_hooks as eh


@hydra.main(version_base="1.3", config_path="../conf", config_name="experiment")
def main(config: DictConfig) -> None:
    """Run the experiment of the configuration."""
    experiment = hydra.utils.instantiate(config.experiment)
    try:
        experiment()
    except eh.RunStopped as stopped:
        print(f"stopped as asked: {stopped}", file=sys.stderr)


if __name__ == "__main__":
    main()
