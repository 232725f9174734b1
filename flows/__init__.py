"""What drives the twin: Prefect flows, command line, settings, Dask client, reports, operator dashboard."""
