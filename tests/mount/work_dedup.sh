#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 180 s
#
# Clones that share by content, used hard: equal writes at once while the worker and the daemon are
# killed, options that change from mount to mount, discards, and golden images that go or change
# while others have blocks in them.
#
# Environment: CLONES (4), SECONDS_EACH (3), SEED (1).
. "$(dirname "$0")/work_lib.sh"
need python3 fallocate
clones=${CLONES:-4} seconds=${SECONDS_EACH:-3} seed=${SEED:-1}
echo "SEED=$seed"

# guests run SECONDS SEED FILE…: writes, zeroes and discards blocks out of a common stock, some synced,
# until the time is over or the daemon has gone. guests check FILE…: each block is what was written
# last, or what was being written then. $work/known says what that is, from run to run.
guests()
{
	python3 - "$work/known" "$@" <<-'END'
		import errno, json, os, random, subprocess, sys, threading, time
		B, known, how = 4096, sys.argv[1], sys.argv[2]
		stock = [bytes(B)] + [random.Random(i).randbytes(B) for i in range(1, 400)]
		number = {block: i for i, block in enumerate(stock)}
		bad = []

		def guest(name, blocks, end, rng):
		    fd = os.open(name, os.O_RDWR)
		    try:
		        while time.time() < end:
		            n = rng.choice((1, 1, 2, 8, 64, 256))
		            at, first = rng.randrange(len(blocks) - n), rng.randrange(len(stock))
		            kind = rng.random()
		            if kind < 0.1:
		                what = [0] * n
		            elif kind < 0.8:
		                what = [(first + i) % len(stock) for i in range(n)]
		            else:
		                what = [first] * n
		            was = blocks[at:at + n]
		            blocks[at:at + n] = [w + [k] for w, k in zip(was, what)]
		            os.pwrite(fd, b''.join(stock[k] for k in what), at * B)
		            blocks[at:at + n] = [[k] for k in what]
		            if rng.random() < 0.2:
		                os.fdatasync(fd)
		        os.fsync(fd)
		        os.close(fd)
		    except OSError as e:
		        if e.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
		            bad.append('%s: %s' % (name, e))

		if how == 'run':
		    files = sys.argv[5:]
		    if os.path.exists(known):
		        all = json.load(open(known))
		    else:
		        all = {f: [[0] for _ in range(os.path.getsize(f) // B)] for f in files}
		    end = time.time() + float(sys.argv[3])
		    threads = [threading.Thread(target=guest,
		        args=(f, all[f], end, random.Random(sys.argv[4] + f))) for f in files]
		    for t in threads:
		        t.start()
		    for t in threads:
		        t.join()
		else:
		    all = json.load(open(known))
		    for f in sys.argv[3:]:
		        with open(f, 'rb') as data:
		            for i, may in enumerate(all[f]):
		                is_now = number.get(data.read(B))
		                if is_now not in may:
		                    bad.append('%s: block %d is %s, not one of %s' % (f, i, is_now, may))
		                all[f][i] = [is_now]
		json.dump(all, open(known, 'w'))
		sys.exit('\n'.join(bad[:20]) or 0)
	END
}

# identities WHAT: figures of all clones agree with themselves and with du.
identities()
{
	local wrong physical used
	wrong=$("$goldfs" list -j "$mnt" | jq -c '.goldfs[] | select(.kind == "clone") |
		select(.virtual_bytes != .data_bytes + .zero_bytes or .data_bytes != .unique_bytes +
			.shared_golden_bytes + .shared_clone_bytes + .shared_snapshot_bytes +
			.shared_self_bytes)')
	[ -z "$wrong" ] || fail "$1: figures do not add up: $wrong"
	physical=$("$goldfs" df -j "$mnt" | jq .store.physical_bytes)
	used=$(($(du -sB1 --exclude=golden "$store" | cut -f1)))
	[ $((physical - used)) -lt $((used / 50)) ] && [ $((used - physical)) -lt $((used / 50)) ] ||
		fail "$1: physical_bytes is $physical, du says $used"
}

# ---- killed under equal writes ----

mount_goldfs journal-size=8M
for n in $(seq "$clones"); do
	truncate -s 8M "$mnt/c$n.img"
done
for round in 1 2; do
	for _ in $(seq "$seconds"); do
		sleep 0.3
		kill_worker
		sleep 0.7
	done &
	guests run "$seconds" "$seed-$round" "$mnt"/c?.img || fail "round $round"
	wait $!
	guests run 30 "$seed-$round-end" "$mnt"/c?.img &
	guest=$!
	sleep 1
	kill_daemon
	wait $guest || fail "round $round, the daemon killed"
	mount_goldfs "journal-size=8M,dedup-memory=64K"
	guests check "$mnt"/c?.img || fail "round $round"
done
"$goldfs" settle "$mnt"
identities "killed"
umount_goldfs
"$goldfs" check "$store" >check.log || fail "check: $(cat check.log)"

# ---- options from mount to mount ----

for options in ro dedup=off dedup=golden verify=read; do
	mount_goldfs "$options"
	guests check "$mnt"/c?.img || fail "$options"
	if [ "$options" != ro ]; then
		guests run 1 "$seed-$options" "$mnt"/c?.img || fail "$options"
		"$goldfs" settle "$mnt"
	fi
	guests check "$mnt"/c?.img || fail "$options, written"
	identities "$options"
	umount_goldfs
done

# ---- space comes back ----

mount_goldfs
"$goldfs" settle "$mnt"
[ "$("$goldfs" df -j "$mnt" | jq .store.pool_bytes)" -gt 0 ] || fail "nothing was shared"
fallocate -p -o 0 -l 8M "$mnt/c1.img"
truncate -s 0 "$mnt/c2.img"
exec 5<"$mnt/c3.img" 6<"$mnt/c3.img"
rm "$mnt/c3.img"
sum=$(sha256sum <&5)
"$goldfs" settle "$mnt"
[ "$(sha256sum <&6)" = "$sum" ] || fail "a removed file that is open has changed"
exec 5<&- 6<&-
guests check "$mnt/c4.img" || fail "the last one"
rm "$mnt"/c*.img
"$goldfs" settle "$mnt"
[ "$("$goldfs" df -j "$mnt" | jq '.store | .pool_bytes + .data_bytes')" = 0 ] ||
	fail "the empty store has data: $("$goldfs" df -j "$mnt")"

# ---- golden images ----

for n in a b; do
	head -c 4M /dev/urandom >"$images/$n.img"
done
cp "$images/a.img" a.orig
cp "$images/b.img" want
dd if=a.orig of=want bs=1M seek=2 count=1 conv=notrunc status=none
cp "$mnt/golden/a.img" "$mnt/of-a.img"
cp "$mnt/golden/b.img" "$mnt/of-b.img"
for _ in $(seq 300); do
	[ "$(find "$store/index" -type f ! -name '*.*' | wc -l)" -lt 2 ] || break
	sleep 0.1
done
dd if=a.orig of="$mnt/of-b.img" bs=1M seek=2 count=1 conv=notrunc,fsync status=none
"$goldfs" settle "$mnt"
[ "$(figure "$mnt/of-b.img" unique_bytes)" = 0 ] || fail "a block of a golden image was stored"
rm "$images/a.img"
for n in of-a of-b; do
	[ "$(figure "$mnt/$n.img" pinned_golden_bytes)" = 0 ] ||
		fail "$n does not hold the removed image alone"
done
rm "$mnt/of-a.img"
"$goldfs" settle "$mnt"
[ "$(figure "$mnt/of-b.img" pinned_golden_bytes)" -ge $((4 << 20)) ] ||
	fail "what the last holder of an image pins does not count"
cmp want "$mnt/of-b.img" || fail "the image went with its clone"

# Changed in place while nobody watches: no bytes of two images, and everybody is told.
pin=$(basename "$(find "$store/golden" -name '[0-9]*' ! -name '*.*' -printf '%f\n' | sort -n | head -1)")
umount_goldfs
dd if=/dev/urandom of="$store/golden/$pin" bs=1M conv=notrunc count=1 status=none
mount_goldfs
! cat "$mnt/of-b.img" >/dev/null 2>&1 || fail "blocks of a changed image are served"
cmp -n $((2 << 20)) want "$mnt/of-b.img" || fail "blocks of the other image are not served"
"$goldfs" list -j "$mnt" | jq -e '.goldfs[] | select(.path | endswith("/of-b.img")) |
	select(.state == "fenced" and (.reason | contains("a.img")))' >/dev/null ||
	fail "nothing says why: $("$goldfs" list -j "$mnt")"
! "$goldfs" scrub "$mnt" >scrub.log 2>&1 || fail "scrub finds nothing"
[ "$(grep -c of-b.img scrub.log)" -ge 1 ] && [ "$(wc -l <scrub.log)" -lt 20 ] ||
	fail "scrub does not say whom it concerns, or too often: $(head -40 scrub.log)"
rm "$mnt/of-b.img"
"$goldfs" settle "$mnt"
umount_goldfs
"$goldfs" check "$store" >check.log || fail "check: $(cat check.log)"
