#!/bin/bash
# SPDX-License-Identifier: MIT
#
# usage: tests/bench/dedup.sh PROGRAM
#
# What dedup costs new data; see dedup/dedup.c for what is measured and the environment. It needs some
# 2 GiB in FOLDER (the folder for temporary files), which is empty afterwards.
set -eu
folder=$(mktemp -d "${FOLDER:-${TMPDIR:-/tmp}}/goldfs-bench.XXXXXX")
trap 'rm -rf "$folder"' EXIT
"$1" "$folder"
