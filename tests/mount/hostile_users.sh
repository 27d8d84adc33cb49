#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Users who abuse the control file, names and attributes: what they cost the daemon is bounded, and
# others are served meanwhile. Nothing that a name holds reaches a terminal.
# Time limit: 240 s
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v python3 >/dev/null || skip "needs python3"

truncate -s 64M "$images/one.img"
mount_goldfs
cp "$mnt/golden/one.img" "$mnt/disk"
mkdir -m 0777 "$mnt/open" || fail "mkdir"

worker()
{
	jq -r .daemon.worker_pid "$mnt/.goldfs/stats.json"
}

memory_kb()
{
	awk '/^VmRSS/ { print $2 }' "/proc/$(worker)/status"
}

# ---- many files open, requests that are none, replies that nobody reads ----

pid=$(worker)
[ "$pid" -gt 0 ] 2>/dev/null || fail "no worker in stats.json"
before=$(memory_kb)
cat >abuse.py <<'PY'
import os, sys
control, stats = sys.argv[1] + "/.goldfs/control", sys.argv[1] + "/.goldfs/stats.json"
number = int(sys.argv[2])
os.setgid(60000 + number % 7)
os.setuid(60000 + number % 7)
kept, refused = [], 0
for i in range(120):
    try:
        fd = os.open(control if i % 3 else stats, os.O_RDWR if i % 3 else os.O_RDONLY)
    except OSError as e:
        refused += 1
        continue
    kept.append(fd)
    if i % 3 == 0:
        continue
    for request in (b'{"verb":"list"}', b'{"verb":"li', b'\xff\x00{', b'[' * 5000,
                    b'{"verb":"clone","source":"' + b'a' * 60000 + b'"}', b''):
        try:
            os.write(fd, request)
            if i % 5 == 0:
                os.read(fd, 100)
        except OSError:
            refused += 1
print("ready", refused, flush=True)
sys.stdin.readline()
PY
mkfifo go
abusers=40
for i in $(seq $abusers); do
	timeout 200 python3 abuse.py "$mnt" "$i" <go >"abuse.$i" 2>&1 &
done
exec 9>go
# Others are served while it goes on.
for i in $(seq 20); do
	dd if=/dev/urandom of="$mnt/disk" bs=64k count=4 seek=$((i * 4)) conv=notrunc,fsync status=none ||
		fail "a write while the control file is abused"
	[ "$("$goldfs" stat -n -o kind "$mnt/disk" | tr -d ' ')" = clone ] ||
		fail "stat while the control file is abused"
done
for i in $(seq 150); do
	[ "$(grep -ls ready abuse.[0-9]* | wc -l)" -lt $abusers ] || break
	sleep 1
done
[ "$(grep -ls ready abuse.[0-9]* | wc -l)" -eq $abusers ] || fail "abusers that got no answer: $(cat abuse.[0-9]* | grep -v ready | tail -5)"
during=$(memory_kb)
echo "memory of the worker: $before KiB before, $during KiB with $(ls abuse.[0-9]* | wc -l) abusers"
case $goldfs in
*address* | *thread*) ;;
*) [ "$during" -lt $((before + 256 * 1024)) ] || fail "the worker's memory grew to $during KiB" ;;
esac
exec 9>&-
wait $(jobs -p) 2>/dev/null

# One user opens all that he may; root goes on.
python3 - "$mnt" <<'PY' || fail "the bound on open files"
import errno, os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (3000, 3000))
os.setgid(60001); os.setuid(60001)
count = 0
try:
    while count < 2500:
        os.open(sys.argv[1] + "/.goldfs/stats.json", os.O_RDONLY)
        count += 1
except OSError as e:
    assert e.errno == errno.EMFILE, e
assert count == 1024, count
PY
"$goldfs" df "$mnt" >df.txt || fail "df after it"
[ "$(worker)" = "$pid" ] || fail "the worker died"

# ---- names ----

evil=$'a\e[31m\n\u009b31mx\x7f'
touch "$mnt/open/$evil" "$mnt/open/"$'\xff\x9b1m' || fail "strange names"
printf 'x' >"$mnt/open/$evil"
{
	"$goldfs" list "$mnt/open"
	"$goldfs" list -j "$mnt/open"
	"$goldfs" stat "$mnt/open/$evil" "$mnt/open/"$'\xff\x9b1m'
	"$goldfs" stat "$mnt/open/$evil-missing"
	"$goldfs" clone "$mnt/open/$evil" "$mnt/open/missing/$evil"
	"$goldfs" "$evil"
	"$goldfs" list --sort "$evil"
} >names.txt 2>&1 </dev/null
[ "$(grep -c . names.txt)" -gt 10 ] || fail "too little was printed: $(cat -v names.txt)"
LC_ALL=C grep -qP '[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]' names.txt &&
	fail "control characters were printed: $(LC_ALL=C cat -v names.txt)"
"$goldfs" list -j "$mnt/open" | jq -e --arg name "/open/$evil" '[.goldfs[].path | endswith($name)] | any' \
	>/dev/null || fail "JSON does not hold the name"

# ---- attributes ----

python3 - "$mnt/disk" <<'PY' || fail "the bound on attributes"
import errno, os, sys
set_to = 0
try:
    for i in range(1000):
        os.setxattr(sys.argv[1], "user.big%d" % i, b"x" * 60000)
        set_to = i + 1
except OSError as e:
    assert e.errno == errno.ENOSPC, e
assert 2 <= set_to < 10, set_to
PY

unmount_goldfs 2>/dev/null || "$goldfs" umount "$mnt" || fail "umount"
