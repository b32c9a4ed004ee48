"""What a training is told by its environment: the warehouse, by the variables that the daily job has too."""

from etl.settings import WarehouseSettings
from pydantic import Field


class ModelSettings(WarehouseSettings):
    """Everything a training needs to know. Environment variables carry the prefix ETL_."""

    warehouse_wait_seconds: float = Field(
        default=60.0, ge=0, description="how long a run outlasts a warehouse that went away, in seconds; 0: not at all"
    )
