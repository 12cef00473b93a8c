#!/bin/bash
# As the official image's entrypoint: a cluster in PGDATA, made at the first start, which trusts who reaches it.
set -euo pipefail
: "${PGDATA:=/data/cluster}"
export PGDATA
# Whole or not there: a server that is killed while it makes one makes it anew.
if [[ ! -e $PGDATA/PG_VERSION ]]; then
    rm -rf "$PGDATA.new"
    initdb --username="${POSTGRES_USER:-postgres}" --auth=trust --encoding=UTF8 --no-sync -D "$PGDATA.new" >/dev/null
    printf 'host all all all trust\n' >>"$PGDATA.new/pg_hba.conf"
    mv "$PGDATA.new" "$PGDATA"
fi
# What a killed server of this container has left; its number may be another process's by now.
rm -f "$PGDATA/postmaster.pid"
exec "$@"
