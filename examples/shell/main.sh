#!/bin/sh
# A child of runqy's worker in shell, with jq. `handle` is yours, the rest is the protocol of its children.
set -f # words with ? and * are no file names

# Reads the payload, prints the result as JSON. If it fails, its last line on stderr is the error; 75 is tried again.
handle() {
	urls=$(jq -r '.urls[]') || return
	sums='{}' current=0 total=$(echo "$urls" | wc -l)
	for url in $urls; do
		sum=$(fetch "$url") || return
		sums=$(echo "$sums" | jq -c --arg url "$url" --arg sum "$sum" '.[$url] = $sum')
		current=$((current + 1))
		echo "{\"progress\":{\"current\":$current,\"total\":$total}}" >&3
	done
	echo "$sums"
}

fetch() {
	curl -qsSf --proto =http,https -o "$folder/page" --url "$1"
	case $? in 0) ;; 22) return 1 ;; *) return 75 ;; esac # 22: the status is 400 or above
	sha256sum <"$folder/page" | cut -d " " -f 1
}

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
trap exit TERM
exec 3>&1 # the protocol, while a handler's stdout is its result
echo '{"status":"ready"}' >&3
while IFS= read -r task; do
	printf '%s' "$task" | jq .payload | handle >"$folder/result" 2>"$folder/errors"
	status=$?
	cat "$folder/errors" >&2
	if [ $status = 0 ]; then
		set -- --slurpfile result "$folder/result" '{task_id, result: $result[0]}'
	else
		error=$(tail -n 1 "$folder/errors")
		set -- --arg error "${error:-exit status $status}" --argjson status $status '{task_id, $error, retry: ($status == 75)}'
	fi
	printf '%s' "$task" | jq -c "$@" >&3
done
