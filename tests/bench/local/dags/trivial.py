"""The flow that does nothing, as Airflow has it. Airflow alone reads this file, in an environment of its own."""

from airflow.sdk import dag, task


@dag(schedule=None, is_paused_upon_creation=False)
def trivial() -> None:
    """One task, which does nothing."""

    @task
    def nothing() -> int:
        return 1

    nothing()


trivial()
