#!/bin/bash
# One node, set by the environment variables of the official image: KAFKA_LOG_DIRS is log.dirs.
set -euo pipefail
properties=/kafka/server.properties

: "${KAFKA_LOG_DIRS:=/kafka/data}"
export KAFKA_LOG_DIRS
while IFS='=' read -r name value; do
    case $name in
    KAFKA_HEAP_OPTS) ;;
    KAFKA_*)
        key=${name#KAFKA_}
        key=${key//_/.}
        printf '%s=%s\n' "${key,,}" "$value"
        ;;
    esac
done < <(env) >"$properties"

# read -a: the options are words.
read -ra heap <<<"${KAFKA_HEAP_OPTS:-}"
java=(java "${heap[@]}" -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true
    -Dlog4j2.configurationFile=/kafka/log4j2.properties -cp '/kafka/jars/*')

if [[ ! -e $KAFKA_LOG_DIRS/meta.properties ]]; then
    "${java[@]}" -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format \
        --cluster-id "${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}" --config "$properties"
fi
exec "${java[@]}" kafka.Kafka "$properties"
