#!/bin/sh
# The example client in curl: submit under an idempotency key, wait by long-polls, and read the events.
#
# sh examples/curl.sh http://127.0.0.1:9006 +15550001 Hello [callback URL]
set -eu
if [ $# -lt 3 ]; then
    echo "usage: sh examples/curl.sh URL DESTINATION BODY [CALLBACK_URL]" >&2
    exit 2
fi
base=$1 destination=$2 body=$3 callback=${4:-}
# POSTHASTE_API_KEY is sent if it is set.
authorization=${POSTHASTE_API_KEY:+Authorization: Bearer $POSTHASTE_API_KEY}
curl() { command curl ${authorization:+-H "$authorization"} "$@"; }
key=$(cat /proc/sys/kernel/random/uuid)
message="{\"destination\": \"$destination\", \"body\": \"$body\"${callback:+, \"callback_url\": \"$callback\"}}"

# A lost answer or a 503 is retried under the same key, so the message is accepted once.
until accepted=$(curl -sS --fail-with-body --max-time 5 "$base/messages" \
    -H 'Content-Type: application/json' -H "Idempotency-Key: $key" -d "$message"); do
    case $accepted in *'"status":4'*) echo "rejected: $accepted" >&2; exit 1 ;; esac
    sleep 1
done
id=$(printf %s "$accepted" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p')
echo "accepted: $id"

# Each answer comes when the status changes, and after 50 s at the latest.
while :; do
    status=$(curl -sS --max-time 60 "$base/message/$id/status" -H 'Prefer: wait=50' | sed -n 's/.*"status":"\([^"]*\)".*/\1/p') || status=
    case $status in
        sent | delivered | failed | unknown | canceled | expired | discarded) break ;;
        '') sleep 1 ;;
    esac
done
echo "it is $status; its last event:"
curl -sSN --max-time 10 "$base/messages/$id/events"
[ "$status" = sent ]
