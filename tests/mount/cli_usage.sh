#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The command line without a mount: help, version, and wrong usage. Whatever is wrong gives exactly
# one line on stderr that starts with "goldfs: ", nothing on stdout, and the right exit status.
set -u
goldfs=$1
cd "${TMPDIR:?}" || exit 1
failures=0

# fails STATUS ARGUMENT...: the command exits with STATUS and says so properly.
fails()
{
	local wanted=$1 status
	shift
	"$goldfs" "$@" >out 2>err
	status=$?
	if [ $status -ne "$wanted" ] || [ -s out ] || [ "$(wc -l <err)" -ne 1 ] ||
		! grep -q '^goldfs: [^A-Z].*[^.]$' err; then
		echo "goldfs $* gave status $status instead of $wanted:"
		cat out err
		failures=$((failures + 1))
	fi
}

works()
{
	if ! "$goldfs" "$@" >out 2>err || [ -s err ] || [ ! -s out ]; then
		echo "goldfs $* failed:"
		cat out err
		failures=$((failures + 1))
	fi
}

works --version
grep -q '^goldfs [0-9]' out || { echo "no version: $(cat out)"; failures=$((failures + 1)); }
works --help
for verb in mount umount clone list stat df settle golden job resize limit; do
	works "$verb" --help
	if [ "$(sed -n '/^Examples:/,$p' out | grep -c '^  goldfs ')" -ne 2 ]; then
		echo "goldfs $verb --help has not two examples"
		failures=$((failures + 1))
	fi
done

fails 2
fails 2 frobnicate
fails 2 frobnicate a b
fails 2 --frobnicate
for verb in top dedup scrub check upgrade; do
	mkdir -p "$verb" mnt
	fails 1 "$verb" mnt
done

for verb in rm snapshot refresh; do
	mkdir -p "$verb"
	fails 2 "$verb" mnt
	fails 2 "$verb"
done

touch image
fails 2 clone
fails 2 clone image
fails 2 clone --mode quick image b
fails 2 clone --bad image b
fails 2 clone --mode
fails 2 clone -n 0 image b%d
fails 2 clone -n 1x image b%d
fails 2 clone -n -1 image b%d
fails 2 clone -n 100001 image b%d
fails 2 clone -n 99999999999999999999 image b%d
fails 2 clone --start 5 image b
fails 2 clone -n 5 image
fails 2 clone -n 5 image b%d c%d
for pattern in b b%s b%d%d b% b%5d b%0d b%n 'd%d/b' 'd%d/b%d' b%d/; do
	fails 2 clone -n 5 image "$pattern"
done
fails 2 promote
fails 2 promote image
fails 2 promote image /a/b.img
fails 2 promote --rate 0 image b.img
fails 2 promote --cancel
fails 2 promote --cancel a b
fails 1 promote image b.img
fails 1 clone image b
fails 1 clone nothing b
fails 2 list -o nothing
fails 2 list -o path,
fails 2 list --sort nothing
fails 2 list -t nothing
fails 2 list --json=1
fails 1 list .
fails 1 list nothing
fails 2 stat
fails 2 stat -o ''
fails 1 stat image
fails 1 stat --if-removed image
fails 2 df a b
fails 1 df .
fails 2 settle
fails 2 settle a b
fails 1 settle .
fails 2 golden
fails 2 golden nothing
fails 1 golden accept image
fails 2 job
fails 2 job nothing
fails 2 job show
fails 2 job show x
fails 2 job show 0
fails 2 job list a b
fails 1 job show 1 .
fails 2 resize
fails 2 resize image
fails 2 resize --bad image 1G
fails 1 resize image 1G
fails 2 rebase
fails 2 rebase image
fails 2 rebase image --onto
fails 2 rebase image --onto image --rate x
fails 1 rebase image --onto image
fails 2 upgrade-base
fails 2 upgrade-base image
fails 2 upgrade-base image image image
fails 1 upgrade-base image image
fails 2 convert image
fails 2 convert image --mode quick
fails 2 convert image --mode thin --onto image
fails 1 convert image --mode thin
fails 2 limit
fails 2 limit image
fails 2 limit image 0
fails 1 limit image 1G
fails 1 stat "$(printf 'a\nb\377')"

if [ $failures -ne 0 ]; then
	echo "$failures failed"
	exit 1
fi
