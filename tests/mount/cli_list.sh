#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What list, stat, df, settle, job and golden print, and the files of .goldfs.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v jq >/dev/null || skip "needs jq"
failures=0

wrong()
{
	echo "line ${BASH_LINENO[-2]}: $*"
	failures=$((failures + 1))
}

works()
{
	"$@" >out 2>err || wrong "$* failed: $(cat err)"
}

# The last output as JSON fulfils an expression of jq.
holds()
{
	jq -e "$1" out >/dev/null || wrong "not $1: $(head -c 2000 out)"
}

# Identities that hold for every file at every moment.
consistent()
{
	holds '[.goldfs[] | .virtual_bytes == .data_bytes + .zero_bytes and .data_bytes ==
		.unique_bytes + .shared_golden_bytes + .shared_clone_bytes +
		.shared_snapshot_bytes + .shared_self_bytes] | all'
}

mkdir images/sub
truncate -s 64M images/big.img
dd if=/dev/urandom of=images/big.img bs=1M count=4 seek=10 conv=notrunc status=none
dd if=/dev/urandom of=images/sub/small.img bs=1M count=1 status=none
mount_goldfs
mkdir -p mnt/dir/deep
"$goldfs" clone mnt/golden/big.img mnt/one.img mnt/dir/two.img || exit 1
"$goldfs" clone mnt/golden/sub/small.img mnt/dir/deep/three.img || exit 1
truncate -s 10M mnt/blank.img
dd if=/dev/urandom of=mnt/one.img bs=1M count=2 conv=notrunc,fsync status=none

keys='["path","kind","mode","format","base","virtual_bytes","data_bytes","zero_bytes",
	"unique_bytes","shared_golden_bytes","shared_clone_bytes","shared_snapshot_bytes",
	"shared_self_bytes","pinned_golden_bytes","snapshots","created","state"]'

# list: what is there, its keys and sums.
works "$goldfs" list --json mnt
holds "[.goldfs[] | keys_unsorted == $keys] | all"
holds '[.goldfs[].path] | sort == (["/golden/big.img","/golden/sub/small.img","/blank.img","/one.img",
	"/dir/two.img","/dir/deep/three.img"] | map("'"$mnt"'" + .) | sort)'
holds '[.goldfs[] | select(.kind == "golden")] | length == 2'
holds '[.goldfs[] | select(.kind == "clone")] | length == 4'
holds '[.goldfs[].created | test("^20[0-9-]+T[0-9:]+Z$")] | all'
consistent
works "$goldfs" list -j mnt/dir
holds '.goldfs | length == 2'
works "$goldfs" list -j mnt/dir mnt/one.img
holds '.goldfs | length == 3'
works "$goldfs" list -j -t clone mnt
holds '.goldfs | length == 4'
works "$goldfs" list -j -t folder,golden mnt/dir
holds '[.goldfs[] | .path] == ["'"$mnt"'/dir/deep"]'
works "$goldfs" list -j mnt/.snapshots
holds '.goldfs == []'
(cd mnt/dir/deep && "$goldfs" list -j >"$work"/out) || wrong "list in a folder of the mount"
holds '.goldfs | length == 6'

# Tables.
works "$goldfs" list mnt
[ "$(wc -l <out)" -eq 7 ] && head -n 1 out | grep -q '^PATH .* UNIQUE ' || wrong "$(cat out)"
works "$goldfs" list -n -b -o virtual,PATH --sort virtual_bytes mnt
[ "$(wc -l <out)" -eq 6 ] || wrong "$(cat out)"
head -n 1 out | grep -q '^ *1048576 ' && tail -n 1 out | grep -q '^ *67108864 ' || wrong "$(cat out)"
works "$goldfs" list -n -o +snapshots --sort=-virtual mnt
head -n 1 out | grep -q ' 64M .* 0 *$' || wrong "$(cat out)"
works "$goldfs" list -j -o path,shared --sort path mnt/dir
holds '.goldfs[0] | keys_unsorted == ["path","shared_bytes"]'

# As a tree: folders with the sums of what lies below them, and with what removing them frees.
works env LC_ALL=C "$goldfs" list --tree -o path,kind,unique,virtual mnt
tr -s ' ' <out | sed 's/ $//' >tree
cat >expected <<END
PATH KIND UNIQUE VIRTUAL
$work/mnt folder 2M 139M
|-blank.img clone 0B 10M
|-dir folder 0B 65M
| |-deep folder 0B 1M
| | \`-three.img clone 0B 1M
| \`-two.img clone 0B 64M
|-golden folder 0B 65M
| |-big.img golden 0B 64M
| \`-sub folder 0B 1M
| \`-small.img golden 0B 1M
\`-one.img clone 2M 64M
END
cmp -s tree expected || wrong "$(diff expected tree)"
works env LC_ALL=C "$goldfs" list --tree --sort -virtual -n -o virtual,path -t clone mnt
[ "$(awk '{ print $NF }' out | tr '\n' ' ')" = "$work/mnt |-dir |-two.img \`-deep \`-three.img |-one.img \`-blank.img " ] ||
	wrong "$(cat out)"
works env LC_ALL=C "$goldfs" list --tree -n -o path mnt/dir mnt/one.img
[ "$(wc -l <out)" -eq 5 ] && tail -n 1 out | grep -qx "$work/mnt/one.img" || wrong "$(cat out)"
works "$goldfs" list --json mnt
cp out flat
works "$goldfs" list --json --tree mnt
cmp -s out flat || wrong "--tree changes JSON"
"$goldfs" list --tree -o kind mnt >out 2>err
[ $? -eq 2 ] && [ ! -s out ] || wrong "a tree without paths"

# stat: paths as they were typed, folders as sums.
works "$goldfs" stat -j mnt/one.img ./mnt//dir mnt/golden/big.img mnt
holds '[.goldfs[].path] == ["mnt/one.img","./mnt//dir","mnt/golden/big.img","mnt"]'
holds '[.goldfs[].kind] == ["clone","folder","golden","folder"]'
holds "[.goldfs[] | keys_unsorted == $keys] | all"
holds '.goldfs[0].base == "golden/big.img" and .goldfs[0].mode == "snapshot"'
holds '.goldfs[0].virtual_bytes == 67108864 and .goldfs[0].data_bytes == 6291456'
holds '.goldfs[0].unique_bytes == 2097152 and .goldfs[0].shared_golden_bytes == 4194304'
holds '.goldfs[1].virtual_bytes == 68157440 and .goldfs[1].unique_bytes == 0'
holds '.goldfs[3].unique_bytes == 2097152'
consistent
works "$goldfs" stat -j mnt/golden mnt/golden/sub
holds '.goldfs[0] | .kind == "folder" and .virtual_bytes == 68157440 and .unique_bytes == 0 and
	.shared_golden_bytes == .data_bytes'
holds '.goldfs[1].data_bytes == 1048576'
consistent
works "$goldfs" stat mnt/one.img
grep -q '^UNIQUE  *2M$' out || wrong "$(cat out)"
works "$goldfs" stat -n -b -o unique mnt/one.img
[ "$(cat out)" -eq 2097152 ] || wrong "$(cat out)"
ln -s one.img mnt/link
works "$goldfs" stat -n -b -o unique mnt/link
[ "$(cat out)" -eq 2097152 ] || wrong "$(cat out)"

# What removing a set frees.
works "$goldfs" stat --if-removed -b -n mnt/one.img mnt/dir mnt/link
[ "$(cat out)" -eq 2097152 ] || wrong "$(cat out)"
works "$goldfs" stat --if-removed --json mnt/dir mnt/blank.img
holds '.if_removed_bytes == 0 and (.goldfs | length) == 2'

# The store.
works "$goldfs" df --json mnt
holds '.store | keys_unsorted[0:13] == ["virtual_bytes","data_bytes","unique_bytes","pool_bytes",
	"golden_bytes","journal_bytes","metadata_bytes","physical_bytes","free_bytes",
	"saved_clone_bytes","saved_dedup_bytes","saved_zero_bytes","ratio"]'
holds '.store.unique_bytes == 2097152 and .store.clones == 4'
works "$goldfs" df mnt/dir
[ "$(wc -l <out)" -eq 2 ] || wrong "$(cat out)"
works "$goldfs" df -n -b -o virtual mnt
[ "$(cat out)" -eq $((67108864 * 2 + 1048576 + 10485760)) ] || wrong "$(cat out)"

# Settling, as a job and not.
works "$goldfs" settle mnt
[ ! -s out ] || wrong "settle printed $(cat out)"
works "$goldfs" settle --background mnt
id=$(cat out)
[ "$id" -eq 2 ] || wrong "job $id"
works "$goldfs" job wait "$id" mnt
works "$goldfs" job show -j "$id" mnt
holds '.jobs[0] | .id == 2 and .kind == "settle" and .state == "done" and .error == ""'
holds '.jobs[0] | keys_unsorted[0:8] == ["id","kind","target","state","done_bytes","total_bytes",
	"rate","error"]'
(cd mnt && "$goldfs" job list -j >"$work"/out) || wrong "job list"
holds '[.jobs[].id] == [1,2]'
works cat mnt/.goldfs/jobs/2.json
holds '.id == 2'
"$goldfs" job cancel 2 mnt 2>err && wrong "an ended job was cancelled"
"$goldfs" job show 77 mnt 2>err && wrong "there is a job 77"

# Golden images.
works "$goldfs" golden list mnt
[ "$(wc -l <out)" -eq 3 ] && grep -q '/golden/sub/small.img  *raw  *1M ' out || wrong "$(cat out)"

# The virtual files.
works cat mnt/.goldfs/stats.json
holds '.store.clones == 4 and (.version | length) > 0 and .daemon.worker_pid > 1'
holds '.daemon | has("supervisor_pid") and has("restarts") and has("last_pause_ms") and
	has("uptime_seconds")'
kill -0 "$(jq .daemon.worker_pid out)" || wrong "the worker is not the one that stats.json names"
works cat mnt/.goldfs/metrics
grep -qx 'goldfs_store_unique_bytes 2097152' out || wrong "$(cat out)"
grep -q '^goldfs_write_bytes_total [1-9]' out || wrong "$(cat out)"
grep -q '^goldfs_clone_' out && wrong "series per clone were not asked for"
[ "$(ls mnt/.goldfs | tr '\n' ' ')" = "control jobs metrics stats.json " ] || wrong "$(ls mnt/.goldfs)"
[ "$(stat -c %a mnt/.goldfs/control)" = 666 ] || wrong "mode of control"
[ "$(stat -c %a mnt/.goldfs/metrics)" = 444 ] || wrong "mode of metrics"
touch mnt/.goldfs/x 2>/dev/null && wrong "a file was made in .goldfs"
rm -f mnt/.goldfs/metrics 2>/dev/null
[ -e mnt/.goldfs/metrics ] || wrong "metrics was removed"

# A name that is not UTF-8.
"$goldfs" clone mnt/golden/sub/small.img mnt/dir/$'b\xfc%41' || wrong "clone to such a name"
works "$goldfs" list -j mnt/dir
holds '[.goldfs[].path] | contains(["'"$mnt"'/dir/b%FC%2541"])'
works "$goldfs" stat -j mnt/dir/$'b\xfc%41'
holds '.goldfs[0].path == "mnt/dir/b%FC%2541"'

# A thousand clones are one quick request.
mkdir mnt/many
"$goldfs" clone -n 1000 mnt/golden/big.img mnt/many/%d || wrong "1000 clones"
start=$(date +%s%N)
works "$goldfs" list -j mnt
took=$((($(date +%s%N) - start) / 1000000))
echo "list of 1000 clones: $took ms"
holds '.goldfs | length == 1007'

# A read-only mount answers, and refuses what would change it.
umount_goldfs
mount_goldfs ro
works "$goldfs" df -j mnt
holds '.store.clones == 1005'
works "$goldfs" list -j mnt
holds '.goldfs | length == 1007'
"$goldfs" clone mnt/one.img mnt/no.img 2>err && wrong "clone in a read-only mount"
"$goldfs" df mnt >/dev/full 2>err && wrong "df to a full disk"

# Series per clone.
umount_goldfs
mount_goldfs metrics=clone
works cat mnt/.goldfs/metrics
grep -qx 'goldfs_clone_unique_bytes{clone="one.img"} 2097152' out || wrong "$(grep clone= out | head)"
grep -qx 'goldfs_clone_shared_bytes{clone="one.img"} 4194304' out || wrong "$(grep clone= out | head)"
[ "$(grep -c '^goldfs_clone_unique_bytes{' out)" -eq 1005 ] || wrong "series are missing"

[ $failures -eq 0 ] || fail "$failures checks"
