"""Control routes: health, readiness, metrics, the list of models. The door of starlette."""
