"""What drives the twin: Prefect flows, command line, settings, Dask client, reports, operator dashboard.

Importing this package switches off the telemetry of the libraries below it, because each of them reads its switch when it
is imported and every process that does work here (command, flow, Dask worker, server) imports this package first.
"""

import os

TELEMETRY_OFF = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # the word, not 1: MLflow's own check accepts only "true"
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

os.environ.update(TELEMETRY_OFF)
