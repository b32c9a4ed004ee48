"""What one row of each table looks like: columns in order, their types, units, and which may be null."""

import datetime as dt

from pydantic import BaseModel, ConfigDict, Field

LOCAL_TIME = "local time as hours and minutes without a colon: 517 is 5:17"


class Row(BaseModel):
    """A row as NDJSON carries it: every column present, null where nothing was recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Flight(Row):
    """A flight that was to leave Newark, Kennedy or LaGuardia; cancelled flights have no departure time."""

    year: int = Field(description="local date of the scheduled departure", examples=[2013])
    month: int = Field(examples=[1])
    day: int = Field(examples=[1])
    dep_time: int | None = Field(description=f"actual departure, {LOCAL_TIME}; null if cancelled", examples=[517])
    sched_dep_time: int = Field(description=f"scheduled departure, {LOCAL_TIME}", examples=[515])
    dep_delay: int | None = Field(description="departure delay in minutes, negative when early", examples=[2])
    arr_time: int | None = Field(description=f"actual arrival, {LOCAL_TIME} at the destination", examples=[830])
    sched_arr_time: int = Field(description=f"scheduled arrival, {LOCAL_TIME} at the destination", examples=[819])
    arr_delay: int | None = Field(description="arrival delay in minutes, negative when early", examples=[11])
    carrier: str = Field(description="two-character carrier code, see /airlines", examples=["UA"])
    flight: int = Field(description="flight number", examples=[1545])
    tailnum: str | None = Field(description="the aircraft, see /planes", examples=["N14228"])
    origin: str = Field(description="airport of departure: EWR, JFK or LGA", examples=["EWR"])
    dest: str = Field(description="airport of arrival, see /airports", examples=["IAH"])
    air_time: int | None = Field(description="minutes in the air", examples=[227])
    distance: int = Field(description="miles between the airports", examples=[1400])
    hour: int = Field(description="hour of the scheduled departure, local", examples=[5])
    minute: int = Field(description="minute of the scheduled departure", examples=[15])
    time_hour: dt.datetime = Field(
        description="the scheduled departure's hour in UTC; joins with weather", examples=["2013-01-01T10:00:00Z"]
    )


class Weather(Row):
    """One hour of weather at one of the three airports of departure."""

    origin: str = Field(description="airport: EWR, JFK or LGA", examples=["EWR"])
    year: int = Field(description="local date of the observation", examples=[2013])
    month: int = Field(examples=[1])
    day: int = Field(examples=[1])
    hour: int = Field(description="local hour of the observation", examples=[1])
    temp: float | None = Field(description="temperature in °F", examples=[39.02])
    dewp: float | None = Field(description="dew point in °F", examples=[26.06])
    humid: float | None = Field(description="relative humidity in percent", examples=[59.37])
    wind_dir: int | None = Field(description="wind direction in degrees", examples=[270])
    wind_speed: float | None = Field(description="wind speed in miles per hour", examples=[10.357019999999999])
    wind_gust: float | None = Field(description="gusts in miles per hour; null without gusts", examples=[None])
    precip: float = Field(description="precipitation in inches", examples=[0.0])
    pressure: float | None = Field(description="sea level pressure in millibars", examples=[1012.0])
    visib: float = Field(description="visibility in miles", examples=[10.0])
    time_hour: dt.datetime = Field(description="the hour in UTC", examples=["2013-01-01T06:00:00Z"])


class Airline(Row):
    """A carrier's code and its name."""

    carrier: str = Field(examples=["UA"])
    name: str = Field(examples=["United Air Lines Inc."])


class Airport(Row):
    """An airport of the United States and where it is."""

    faa: str = Field(description="the airport's code", examples=["IAH"])
    name: str = Field(examples=["George Bush Intercontinental"])
    lat: float = Field(description="degrees north", examples=[29.984433])
    lon: float = Field(description="degrees east", examples=[-95.341442])
    alt: int = Field(description="altitude in feet", examples=[97])
    tz: int = Field(description="hours from UTC without daylight saving", examples=[-6])
    dst: str = Field(description="daylight saving: A as in the US, N none, U unknown", examples=["A"])
    tzone: str | None = Field(description="IANA timezone", examples=["America/Chicago"])


class Plane(Row):
    """An aircraft as the registry of the FAA describes it."""

    tailnum: str = Field(examples=["N14228"])
    year: int | None = Field(description="year of manufacture", examples=[1999])
    type: str = Field(examples=["Fixed wing multi engine"])
    manufacturer: str = Field(examples=["BOEING"])
    model: str = Field(examples=["737-824"])
    engines: int = Field(description="number of engines", examples=[2])
    seats: int = Field(description="number of seats", examples=[149])
    speed: int | None = Field(description="average cruising speed in miles per hour", examples=[None])
    engine: str = Field(description="kind of engine", examples=["Turbo-fan"])
