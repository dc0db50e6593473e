#!/bin/sh
# Turn the pages of a folder into one HTML file: build.sh SITE OUT TITLE
set -eu
mkdir -p "$2"
{
    printf '<!doctype html>\n<meta charset="utf-8">\n<title>%s</title>\n<h1>%s</h1>\n' "$3" "$3"
    for page in "$1"/*.txt; do
        printf '<h2>%s</h2>\n' "$(basename "$page" .txt)"
        sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/^$/<p>/' "$page"
    done
} > "$2/index.html"
wc -c "$2/index.html"
