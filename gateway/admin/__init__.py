"""Control routes: health, readiness, metrics, the list of models, the API for operators. The door of starlette."""
