#!/bin/sh
# Run once by the database's own image, when its folder is empty: one role and one database each for MLflow and the gate.
set -eu
SECRETS=${SECRETS:-/run/secrets}
export SECRETS
psql --set ON_ERROR_STOP=1 --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'END'
\set mlflow_password `cat "$SECRETS/mlflow_database"`
\set gate_password `cat "$SECRETS/gate_database"`
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE ROLE gate LOGIN PASSWORD :'gate_password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE gate OWNER gate;
REVOKE CONNECT ON DATABASE mlflow, gate, postgres FROM PUBLIC;
END
