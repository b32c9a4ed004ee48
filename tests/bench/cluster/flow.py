"""The flow that does nothing, the same on every side. Run as a program, it registers itself in stock Prefect's pools.

It lies in an image of its own on top of the ETL image, so that all sides start the same files.
"""

import os
import time

from prefect import flow
from prefect.exceptions import ObjectNotFound


@flow
def trivial() -> int:
    """Do nothing; the number is the bare Job's too."""
    return 1


def register() -> None:
    """Register the deployment in each pool, once its worker has made it."""
    deadline = time.monotonic() + 180
    for pool in ("stock", "tuned"):
        deployment = trivial.to_deployment(
            name=pool,
            work_pool_name=pool,
            job_variables={
                "image": os.environ["IMAGE"],
                "image_pull_policy": "IfNotPresent",
                "namespace": "stock",
                "cpu_request": "150m",  # as our flow pods have on this cluster, so that no more start at once than can
            },
        )
        while True:
            try:
                deployment.apply()
            except (ObjectNotFound, ValueError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(1)
            else:
                break


if __name__ == "__main__":
    register()
