#!/usr/bin/env bash
# Tries a running `docker compose up` the hard way: four PDFs of 150 pages, a worker killed in mid-ingestion,
# Redis killed, a worker told to stop, everything taken down and started again. Every PDF must come out whole.
#
#   tests/compose_smoke.sh [FILE.pdf …]      your own PDFs in place of the made ones
#
# When the service has API_KEYS, put one of them into PDF_INGEST_API_KEY; that nothing is answered without it is
# then tried as well.
# Needs docker compose, curl and python3. Leaves its documents in the collection "smoke".
# (No `grep -q` and `head` behind a pipe: a program that cannot write any more would end the test.)
set -euo pipefail
cd "$(dirname "$0")/.."

pages=150
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
touch "$folder/headers"
[ -z "${PDF_INGEST_API_KEY:-}" ] || echo "Authorization: Bearer $PDF_INGEST_API_KEY" >"$folder/headers"
export no_proxy="127.0.0.1,localhost,${no_proxy:-}" # for curl and Python
api=http://$(docker compose port api 8000)
workers=$(docker compose ps -q worker | wc -l)

say() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }
fail() {
    say "FAILED: $*"
    exit 1
}
ask() { curl --silent --show-error --fail-with-body --max-time 90 --header "@$folder/headers" "$@"; }
get() { ask "$api$1"; }

# pick KEY…: one value out of the JSON on standard input
pick() {
    python3 -c '
import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]:
    value = value[int(key) if isinstance(value, list) else key]
print(value)' "$@"
}

# upload FILE [FORM FIELD…]: prints "DOCUMENT TASK"
upload() {
    local file=$1 fields=() field
    shift
    for field in collection=smoke on_duplicate=keep "$@"; do fields+=(--form "$field"); done
    ask --form "file=@$file" "${fields[@]}" "$api/documents" |
        python3 -c 'import json, sys; answer = json.load(sys.stdin); print(answer["document_id"], answer["task_id"])'
}

# until_status WANTED TASK…: until one of the tasks has it
until_status() {
    local wanted=$1 task
    shift
    for _ in $(seq 200); do
        for task in "$@"; do
            if [ "$(get "/tasks/$task" | pick status)" = "$wanted" ]; then return; fi
        done
        sleep 0.1
    done
    fail "none of the tasks came to be '$wanted'"
}

until_ready() {
    for _ in $(seq 90); do
        if get /readyz >"$folder/ready" 2>&1; then return; fi
        sleep 1
    done
    fail "the API is not ready after 90 s: $(cat "$folder/ready")"
}

# verdict TASK: waits for the end, which must be a success
verdict() {
    local answer status
    for _ in 1 2 3 4; do
        answer=$(get "/tasks/$1?wait=60")
        status=$(pick status <<<"$answer")
        case $status in
        success)
            say "task $1: success, attempt $(pick attempt <<<"$answer")"
            return
            ;;
        error | cancelled) fail "task $1: $answer" ;;
        esac
    done
    fail "task $1 has no verdict after 4 minutes: $answer"
}

# whole DOCUMENT: every chunk is there exactly once, in order, from the first page to the last
whole() {
    API=$api DOCUMENT=$1 python3 - <<'PYTHON'
import json, os, urllib.request

url = f"{os.environ['API']}/documents/{os.environ['DOCUMENT']}"


def get(address):
    key = os.environ.get("PDF_INGEST_API_KEY")
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


document, chunks, after = get(url), [], ""
while after is not None:
    part = get(f"{url}/chunks?limit=500{after and '&after=' + after}")
    chunks += part["data"]
    after = part["next"]
assert document["status"] == "ready", document
assert [chunk["ordinal"] for chunk in chunks] == list(range(document["chunks"])), "chunks lost or doubled"
pages = {page for chunk in chunks for page in range(chunk["page_start"], chunk["page_end"] + 1)}
assert len(pages) + len(document["pages_without_text"]) >= document["pages"] > 0, "pages are missing"
print(f"          {document['filename']}: {document['pages']} pages, {len(chunks)} chunks, each once")
PYTHON
}

# kill_inside SERVICE: SIGKILL for all that runs in its first container, which Docker must start again.
# (`docker kill` would count as the wish of an operator, and no restart follows that.)
kill_inside() {
    local container before
    container=$(docker compose ps -q "$1" | sed -n 1p)
    before=$(docker inspect --format '{{.RestartCount}}' "$container")
    docker exec "$container" sh -c 'kill -9 -1' >"$folder/kill" 2>&1 || true
    for _ in $(seq 60); do
        if [ "$(docker inspect --format '{{.RestartCount}} {{.State.Running}}' "$container")" = "$((before + 1)) true" ]; then
            say "$1 killed; Docker started it again"
            return
        fi
        sleep 0.5
    done
    fail "$1 was killed and did not come back"
}

# refused ARGUMENT OF CURL…: the answer is 401, as a problem that says so itself
refused() {
    local got
    got=$(curl --silent --show-error --output "$folder/problem" --write-out '%{http_code} %{content_type}' "$@")
    [ "$got" = "401 application/problem+json" ] || fail "$got, not refused: ${*: -1}"
    [ "$(pick status <"$folder/problem")" = 401 ] || fail "another problem: $(cat "$folder/problem")"
}

nothing_without_a_key() {
    [ -s "$folder/headers" ] || return 0
    refused "$api/documents"
    refused --header "Authorization: Bearer x$PDF_INGEST_API_KEY" "$api/documents"
    refused --form "file=@samples/annual-report.pdf" "$api/documents"
    refused --header 'Content-Type: application/json' --data '{"query": "eagles"}' "$api/search"
    refused "$api/tasks/$1"
    say "without its key, and with a wrong one, nothing is answered (401)"
}

secret_key() { docker compose exec -T api sha256sum /secrets/secret-key; }

search() {
    ask --header 'Content-Type: application/json' \
        --data "{\"query\": \"$1\", \"collection\": \"smoke\", \"mode\": \"text\", \"limit\": 1}" "$api/search"
}

finds_its_page() {
    local hit
    [ "${#own[@]}" -gt 0 ] && return
    hit=$(search "maplex$((pages - 1))")
    [ "$(pick data <<<"$hit")" != "[]" ] || fail "search found nothing"
    [ "$(pick data 0 filename <<<"$hit")" = maple.pdf ] || fail "search found something else: $hit"
    [ "$(pick data 0 page_start <<<"$hit")" = $((pages - 1)) ] || fail "search found another page: $hit"
    say "search finds page $((pages - 1)) of maple.pdf"
}

own=("$@")
files=("$@")
if [ "${#own[@]}" -eq 0 ]; then
    for name in alder birch larch maple; do
        python3 tests/large_pdf.py "$folder/$name.pdf" "$name" "$pages"
        files+=("$folder/$name.pdf")
    done
fi

until_ready
[ "$workers" -gt 0 ] || fail "compose knows of no running worker here"
get "/documents?limit=1" >"$folder/list" ||
    fail "$(cat "$folder/list") (if the service has API_KEYS, put one into PDF_INGEST_API_KEY)"
say "ready, with $workers worker containers"
[ "$(docker compose exec -T api id -u)" -ne 0 ] || fail "the API runs as root"
for where in /opt/pdf-ingest/x /secrets/x; do
    ! docker compose exec -T api touch "$where" 2>"$folder/touch" || fail "the API can write $where"
done
! docker compose exec -T api sh -c 'command -v cc || command -v gcc' || fail "there is a compiler in the image"
docker compose exec -T worker tesseract --list-langs | grep -x eng >"$folder/languages" || fail "there is no tesseract"
say "not root, nothing writable but the volumes, no compiler, tesseract is there"

documents=()
tasks=()
for file in "${files[@]}"; do
    answer=$(upload "$file")
    documents+=("${answer% *}")
    tasks+=("${answer#* }")
done
nothing_without_a_key "${tasks[0]}"
until_status processing "${tasks[@]}"
kill_inside worker
kill_inside redis
for task in "${tasks[@]}"; do verdict "$task"; done
for document in "${documents[@]}"; do whole "$document"; done
finds_its_page

answer=$(upload samples/board-minutes-locked.pdf password=lighthouse)
verdict "${answer#* }"
say "a PDF with a password is opened"

answer=$(upload "${files[0]}")
until_status processing "${answer#* }"
docker compose restart worker 2>"$folder/restart"
verdict "${answer#* }"
whole "${answer% *}"
say "a worker was told to stop in mid-ingestion, and nothing is missing"

before=$(secret_key)
docker compose down 2>"$folder/down"
docker compose up --detach --no-build --scale "worker=$workers" 2>"$folder/up"
until_ready
[ "$(secret_key)" = "$before" ] || fail "the key is another one"
for document in "${documents[@]}"; do whole "$document"; done
finds_its_page
nothing_without_a_key "${tasks[0]}"
answer=$(upload "${files[0]}")
verdict "${answer#* }"
say "down and up again: everything is still there"
