#!/bin/bash
# SPDX-License-Identifier: MIT
#
# goldfs upgrade under load: to another version and back, to the file that replaced the one the mount
# was started from, and to programs that cannot serve, which must leave everything as it was.
. "$(dirname "$0")/work_lib.sh"

version()
{
	jq -r .version "$mnt/.goldfs/stats.json"
}
ours=$("$goldfs" --version | sed 's/^goldfs //')
theirs=${ours%?}x

# another FILE: the same program, but for what it calls its version.
another()
{
	python3 - "$goldfs" "$1" "$ours" "$theirs" <<-'END'
		import os, sys
		data = open(sys.argv[1], "rb").read()
		old, new = (v.encode() + b"\0" for v in sys.argv[3:5])
		line = b"goldfs " + old[:-1] + b"\n"
		assert old in data and line in data
		data = data.replace(old, new).replace(line, b"goldfs " + new[:-1] + b"\n")
		data = data.replace(b"goldfs-worker 1 " + old[:-1], b"goldfs-worker 1 " + new[:-1])
		with open(sys.argv[2], "wb") as f:
		    f.write(data)
		os.chmod(sys.argv[2], 0o755)
	END
}

mkdir bin
cp "$goldfs" bin/goldfs
another "$work/newer"
[ "$(./newer --version)" = "goldfs $theirs" ] || skip "the version cannot be changed in this build"
for name in exit silent crash hang format late-exit late-crash late-hang; do
	cp "$tools/candidate" "$name"
done
echo "this is no program" >text
chmod 755 text
cp newer foreign
chown 65534 foreign

golden base.img 32
head -c 100000 /dev/urandom >"$images/small.img"
bin/goldfs mount -o "store=$store,log=$store/log" "$images" "$mnt" || fail "cannot mount"
cp "$mnt/golden/base.img" "$mnt/c1.img"
stop=$work/stop
load()
{
	local n=0
	while [ ! -e "$stop" ]; do
		n=$((n + 1))
		"$tools/ackwriter" write "$mnt/c1.img" "$work/state1" 2 "$images/base.img" || return 1
		"$tools/ackwriter" verify "$mnt/c1.img" "$work/state1" "$images/base.img" || return 1
	done
}
load >load.log 2>&1 &
loads=($!)
names()
{
	local n=0
	while [ ! -e "$stop" ]; do
		n=$((n + 1))
		"$here/names.py" "$mnt/names$n" 2 "${SEED:-}" "$mnt/golden/small.img" || return 1
	done
}
names >names.log 2>&1 &
loads+=($!)
pids+=("${loads[@]}")

# upgraded VERSION ARGUMENT...
upgraded()
{
	local wanted=$1 said
	shift
	said=$("$goldfs" upgrade "$@" "$mnt") || fail "upgrade $*"
	[ "$said" = "version $wanted serves now" ] || fail "upgrade $* said \"$said\""
	[ "$(version)" = "$wanted" ] || fail "upgrade $*: version $(version) serves"
	sleep 0.5
}

upgraded "$theirs" --binary ./newer
upgraded "$ours" --binary bin/goldfs
# Nothing was replaced: the program that runs the command.
upgraded "$ours"
upgraded "$ours" --binary bin/goldfs
another "$work/bin/next"
mv bin/next bin/goldfs
upgraded "$theirs"
rm newer
kill_worker # from a file that has no name any more, or another one
[ "$(version)" = "$theirs" ] || fail "the next worker is version $(version)"
upgraded "$ours" --binary "$goldfs"

# refused TEXT PROGRAM: it is said why, and no worker was replaced.
refused()
{
	local before after
	before=$(daemon_figure worker_pid)
	if "$goldfs" upgrade --binary "$2" "$mnt" >out 2>err; then
		fail "upgrade to $2"
	fi
	cat err
	[ ! -s out ] || fail "upgrade to $2 printed something"
	[ "$(wc -l <err)" = 1 ] && grep -q "^goldfs: .*$1.*nothing was interrupted" err || fail "upgrade to $2"
	after=$(daemon_figure worker_pid)
	[ "$before" = "$after" ] || fail "upgrade to $2 replaced the worker"
}
refused "no goldfs" ./exit
refused "no goldfs" ./silent
refused "crashes" ./crash
refused "format" ./format
refused "exec format error" ./text
refused "belong to root" ./foreign
"$goldfs" upgrade --binary ./missing "$mnt" 2>err && fail "upgrade to nothing"
grep -q '^goldfs: "./missing"' err || fail "upgrade to nothing said: $(cat err)"

# reverted PROGRAM: the old one serves again.
reverted()
{
	if "$goldfs" upgrade --binary "$1" "$mnt" 2>err >out; then
		fail "upgrade to $1"
	fi
	cat err
	grep -q "^goldfs: .*did not come to serve.*version $ours serves again" err || fail "upgrade to $1"
	[ "$(version)" = "$ours" ] || fail "version $(version) serves after $1"
	sleep 0.5
}
reverted ./late-exit
reverted ./late-crash

# Only root and the owner may.
if as_nobody test -x "$work" && ! as_nobody "$goldfs" upgrade "$mnt" 2>err; then
	grep -q 'only root and the owner' err || fail "an ordinary user's upgrade said: $(cat err)"
else
	fail "an ordinary user can upgrade, or was not tried"
fi
# What takes ten seconds each; another while one is under way.
"$goldfs" upgrade --binary ./hang "$mnt" 2>hang.err &
hanging=$!
sleep 1
"$goldfs" upgrade "$mnt" 2>err && fail "two upgrades at once"
grep -q 'under way' err || fail "two upgrades at once: $(cat err)"
wait $hanging && fail "upgrade to a program that hangs"
grep -q 'did not answer; nothing was interrupted' hang.err || fail "hang: $(cat hang.err)"
if [ -n "${SLOW:-}" ]; then
	reverted ./late-hang
fi

touch "$stop"
for pid in "${loads[@]}"; do
	wait "$pid" || failed=1
done
tail -n 4 load.log names.log
[ -z "${failed:-}" ] || fail "a client saw something wrong (above)"
umount_goldfs
