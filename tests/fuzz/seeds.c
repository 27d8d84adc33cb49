/* SPDX-License-Identifier: MIT */
/*
 * Writes the seeds of all corpora: small inputs that follow the format of each harness, for a
 * fuzzer to begin with. `make fuzz-seeds`, after a change of a format or a harness. Other files in
 * the corpora are findings and stay.
 *
 * usage: seeds FOLDER
 */
#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../crash/rng.h"
#include "../crash/simdisk.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "fuzz.h"
#include "goldfs/format.h"
#include "store/content_index.h"

static const char *top;

static void seed(const char *corpus, const char *name, const void *bytes, size_t len)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", top, corpus);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%s/seed-%s", top, corpus, name);
	file = fopen(path, "we");
	if (!file || fwrite(bytes, 1, len, file) != len || fclose(file)) {
		fprintf(stderr, "cannot write \"%s\": %s\n", path, strerror(errno));
		exit(1);
	}
}

/* A first byte before the rest. */
static void seed_how(const char *corpus, const char *name, uint8_t how, const void *bytes,
	size_t len)
{
	uint8_t *all = malloc(len + 1);
	char full[64];

	if (!all)
		abort();
	all[0] = how;
	memcpy(all + 1, bytes, len);
	snprintf(full, sizeof(full), "%s-%u", name, how);
	seed(corpus, full, all, len + 1);
	free(all);
}

/* ---- structures of the store ---- */

static void from_ring(struct simdisk *disk)
{
	size_t len = 0, at = 0, out = 1;
	uint8_t *ring = store_peek(disk, "journal/0", &len);
	uint8_t *records = calloc(1, len);
	struct gf_disk_record rec, last = {0};
	char name[32];

	for (int i = 0; at + sizeof(rec) <= len; i++) {
		memcpy(&rec, ring + at, sizeof(rec));
		if (rec.magic != GF_RECORD_MAGIC || (i && rec.prev != last.sum))
			break;
		if (rec.used < 3000) {
			snprintf(name, sizeof(name), "record%02d", i);
			seed("ops", name, ring + at + sizeof(rec), rec.used);
			records[0] = 0;
			records[out++] = rec.used & 255;
			records[out++] = (uint8_t)(rec.used >> 8);
			memcpy(records + out, ring + at + sizeof(rec), rec.used);
			out += rec.used;
		}
		last = rec;
		at += rec.length;
	}
	seed("journal", "records", records, out);
	records[0] = 4; /* read-only */
	seed("journal", "records-ro", records, out);
	if (at > 2048)
		at = 2048;
	seed_how("journal", "ring", 2 | 8 | 16, ring, at);
	free(records);
	free(ring);
}

/* As fuzz_runs.c takes them: how, states that are XORed in, the list. */
static void from_lists(struct simdisk *disk, int id)
{
	char path[32], name[32];
	size_t len = 0;
	uint8_t *file;

	snprintf(path, sizeof(path), "layer/%d.loc", id);
	file = store_peek(disk, path, &len);
	for (size_t at = 0; file && at + 64 <= len; at += GF_RUNS_SLOT) {
		struct gf_disk_runs head;
		uint8_t seed[64 + 4096] = {0};
		size_t used;

		memcpy(&head, file + at, sizeof(head));
		used = sizeof(head) + head.count * sizeof(struct gf_disk_run);
		if (head.magic != GF_RUNS_MAGIC || used > 4096 || used > len - at)
			continue;
		memcpy(seed + 64, file + at, used);
		snprintf(name, sizeof(name), "layer%d-%zu", id, at / (size_t)GF_RUNS_SLOT);
		for (uint8_t how = 0; how < 4; how++)
			seed_how("runs", name, how, seed, 64 + used);
	}
	free(file);
}

static void from_store(enum template which)
{
	struct simdisk *disk = store_disk(which);
	size_t len = 0;
	uint8_t *bytes = store_peek(disk, "superblock", &len);

	seed("superblock", "good", bytes, len < 512 ? len : 512);
	free(bytes);
	for (int copy = 0; copy < 2; copy++) {
		bytes = store_peek(disk, copy ? "catalog.1" : "catalog.0", &len);
		for (uint8_t how = 0; how < 8 && len > 4096; how += 2)
			seed_how("catalog", copy ? "one" : "zero", (uint8_t)(how | which),
				bytes + 4096, len - 4096);
		seed("ops", copy ? "catalog1" : "catalog0", bytes + 4096, len - 4096);
		free(bytes);
	}
	bytes = store_peek(disk, "layer/1.map", &len);
	for (size_t at = 0; bytes && at + 4096 <= len; at += 4096) {
		if (bytes[at])
			seed("page", at ? "second" : "first", bytes + at, 64 + GF_STATE_BYTES);
	}
	free(bytes);
	for (int id = 1; id <= 3; id++)
		from_lists(disk, id);
	if (which == TEMPLATE_KILLED)
		from_ring(disk);
	simdisk_free(disk);
}

static void stores(void)
{
	/* file, offset, length, bytes: see fuzz_store.c */
	static const uint8_t patches[] = {
		0, 16, 0, 4, 1, 2, 3, 4, 1, 24, 0, 2, 9, 9, 2, 0, 16, 3, 7, 7, 7,
		3, 64, 0, 4, 0, 1, 2, 3, 4, 68, 0, 4, 0x55, 0xaa, 0xff, 0,
		7, 0, 16, 1, 99, 10, 4, 0, 2, 1, 1, 64 + 9, 0, 16, 0,
	};
	char name[16];

	for (uint8_t how = 0; how < 8; how++) {
		seed_how("store", "patches", how, patches, sizeof(patches));
		seed_how("check", "patches", how, patches, sizeof(patches));
		seed_how("check", "intact", how, patches, 0);
	}
	for (uint8_t file = 0; file < 18; file++) {
		uint8_t cut[] = {2, (uint8_t)(64 + file), 100, 4, 0};

		snprintf(name, sizeof(name), "cut%u", file);
		seed("store", name, cut, sizeof(cut));
		seed("check", name, cut, sizeof(cut));
		cut[0] = 4;
		snprintf(name, sizeof(name), "mend%u", file);
		seed("check", name, cut, sizeof(cut));
	}
}

static void sums(void)
{
	struct {
		struct gf_disk_sums head;
		uint64_t sum[3];
	} GF_PACKED s = {.head = {.magic = GF_SUMS_MAGIC, .version = 1, .chunk = GF_SUMS_CHUNK,
			       .golden = 1, .size = 2 * MIB + 5, .count = 3},
		.sum = {0, 1, 77}};

	s.head.sums_sum = hash_struct(s.sum, sizeof(s.sum));
	s.head.sum = hash_struct(&s.head, offsetof(struct gf_disk_sums, sum));
	seed("sums", "good", &s, sizeof(s));
}

/* An index of so many blocks, as fuzz_index.c takes it. */
static void index_of(const char *name, unsigned blocks)
{
	static const uint8_t secret[HASH_SECRET_LEN];
	const struct pin_print print = {.size = blocks * (uint64_t)GF_BLOCK_SIZE};
	struct simdisk *disk = simdisk_new(16 * MIB);
	uint8_t *bytes = calloc(1, print.size + 1), *file;
	struct image *image;
	size_t len = 0;

	for (unsigned i = 0; i < blocks; i++)
		memset(bytes + i * GF_BLOCK_SIZE, (int)(1 + i % 255), 1 + i);
	if (image_memory_new(&image, bytes, print.size) ||
		content_index_build(&(struct content_index_source){.io = simdisk_io(disk),
			.secret = secret, .golden = 1, .print = &print, .image = image,
			.fd = -1}))
		abort();
	file = store_peek(disk, "index/1", &len);
	memmove(file + sizeof(struct gf_disk_index), file + GF_BLOCK_SIZE, len - GF_BLOCK_SIZE);
	len -= GF_BLOCK_SIZE - sizeof(struct gf_disk_index);
	for (uint8_t how = 0; how < 8; how++)
		if (how == 0 || how == 7)
			seed_how("index", name, how, file, len);
	free(file);
	image_free(image);
	free(bytes);
	simdisk_free(disk);
}

static void indexes(void)
{
	index_of("none", 0);
	index_of("few", 5);
	index_of("pages", 345);
}

/* ---- text ---- */

#define SEED_TEXT(corpus, name, text) seed(corpus, name, text, sizeof(text) - 1)

static void texts(void)
{
	SEED_TEXT("text", "size1", "\0001.5GiB");
	SEED_TEXT("text", "size2", "\00016777216T");
	SEED_TEXT("text", "pattern1", "\001\010\001desk%04d.img");
	SEED_TEXT("text", "pattern2", "\001\377\377\377\377\377\377\377\377\377%%%018d");
	SEED_TEXT("text", "name1", "\002web%2F1\xff\n.img");
	SEED_TEXT("text", "name2", "\00250%\xc3\xa4.img");
	SEED_TEXT("text", "mountinfo", "\00336 35 98:0 / /mnt\\040two rw,noatime shared:1 - "
				       "fuse.goldfs /srv/gi rw,user_id=0\n");
	SEED_TEXT("folder", "one", "one.img");
	SEED_TEXT("folder", "two", "sub/../sub/./two.img");
	SEED_TEXT("folder", "in", "in");
	SEED_TEXT("folder", "dir", "dir/two.img");
	SEED_TEXT("folder", "out", "../secret");
	SEED_TEXT("folder", "hidden", "sub/.hidden");
	SEED_TEXT("options", "good", "-o\0store=/a,ro,threads=4,journal-size=64M,dedup=off,"
				     "verify=read\0/srv\0/mnt");
	SEED_TEXT("options", "fstab", "/srv\0/mnt\0-f\0-o\0rw,nofail,x-systemd.automount,"
				      "context=\"a,b\",log=stderr,metrics=clone,reserve=1G");
	SEED_TEXT("control", "clone", "\000{\"verb\":\"clone\",\"source\":\"a\",\"folder\":\"\","
				      "\"pattern\":\"n%02d\",\"count\":3}\0{\"verb\":\"list\"}");
	SEED_TEXT("control", "targets", "\001{\"verb\":\"clone\",\"source\":\"/b\",\"targets\":"
					"[\"folder/x\",{\"escaped\":\"y%FF\"}],\"replace\":true,"
					"\"client\":\"1\",\"umask\":18}");
	SEED_TEXT("control", "stat", "\002{\"verb\":\"stat\",\"paths\":[\"a\",\"folder\"],"
				     "\"if_removed\":true}\0{\"verb\":\"df\"}");
	SEED_TEXT("control", "list", "\000{\"verb\":\"list\",\"path\":\"folder\",\"types\":"
				     "[\"clone\",\"golden\",\"snapshot\",\"folder\"]}");
	SEED_TEXT("control", "jobs", "\000{\"verb\":\"settle\"}\0{\"verb\":\"job-list\"}\0"
				     "{\"verb\":\"job-show\",\"id\":1}\0{\"verb\":\"job-wait\","
				     "\"id\":1,\"timeout_ms\":5}\0{\"verb\":\"job-cancel\",\"id\":1}");
	SEED_TEXT("control", "top", "\000{\"verb\":\"top\"}\0{\"verb\":\"top\",\"all\":true}");
	SEED_TEXT("control", "snapshots", "\000{\"verb\":\"snapshot-create\",\"paths\":[\"a\",\"folder/b\"],"
					  "\"name\":\"s\"}\0{\"verb\":\"snapshot-rollback\",\"path\":\"a\","
					  "\"name\":\"s\",\"force\":true}\0{\"verb\":\"snapshot-list\","
					  "\"path\":\".snapshots/a\"}");
	SEED_TEXT("control", "snapshots-gone", "\000{\"verb\":\"snapshot-create\",\"paths\":[\"a\"],"
					  "\"name\":\"s\"}\0{\"verb\":\"refresh\",\"paths\":[\"a\"],"
					  "\"golden\":\"golden/1\"}\0{\"verb\":\"snapshot-rename\",\"path\":"
					  "\"a\",\"name\":\"s\",\"to\":\"t\"}\0{\"verb\":"
					  "\"snapshot-delete\",\"path\":\"a\",\"names\":[\"t\"],\"dry_run\":"
					  "true}\0{\"verb\":\"snapshot-delete\",\"path\":\"a\",\"automatic\":"
					  "true,\"older_than\":0}\0{\"verb\":\"remove\",\"path\":\"a\"}");
	SEED_TEXT("control", "resize", "\000{\"verb\":\"resize\",\"path\":\"a\",\"size\":100}");
	for (uint8_t how = 0; how < 13; how++) {
		static const char rows[] =
			"{\"status\":0,\"goldfs\":[{\"path\":\"a\\u001bb\",\"kind\":\"clone\","
			"\"virtual_bytes\":4096,\"unique_bytes\":1.5,\"state\":\"ok\"}],"
			"\"store\":{\"ratio\":2.5,\"data_bytes\":7},\"jobs\":[{\"id\":1}],"
			"\"if_removed_bytes\":9}";
		static const char busy[] =
			"{\"status\":0,\"goldfs\":[{\"ino\":70,\"path\":\"a\\u001bb\","
			"\"unique_bytes\":5,\"write_ops\":3,\"write_ns\":9,\"write_bytes\":7,"
			"\"write_latency\":[3,1,0,2]}],\"store\":{\"state\":\"\\u009b\"},"
			"\"jobs\":2,\"time_ns\":1000000000,\"counting_since\":5}";
		static const char refused[] =
			"{\"status\":1,\"errno\":\"EEXIST\",\"error\":\"no\\u009bx\\u0007\"}";

		seed_how("reply", "rows", how, rows, sizeof(rows) - 1);
		if (how >= 10)
			seed_how("reply", "busy", how, busy, sizeof(busy) - 1);
		seed_how("reply", "refused", how, refused, sizeof(refused) - 1);
	}
}

static void probes(void)
{
	uint8_t disk[1024] = {0};

	SEED_TEXT("probe", "qcow2", "QFI\xfb\0\0\0\003");
	SEED_TEXT("probe", "vmdk", "KDMV\001\0\0\0");
	SEED_TEXT("probe", "vmdk-text", " \n# disk descriptorfile\n");
	SEED_TEXT("probe", "vhdx", "vhdxfile");
	memcpy(disk + 64, "\x7f\x10\xda\xbe", 4);
	seed("probe", "vdi", disk, 100);
	memset(disk, 0, sizeof(disk));
	memcpy(disk + 512, "conectix", 8);
	disk[512 + 63] = 2;
	seed("probe", "vhd", disk, sizeof(disk));
}

static void handovers(void)
{
	uint8_t bytes[600] = {0};

	seed("handover", "good", bytes, 0);
	for (unsigned at = 0; at < 4096; at += 512) {
		bytes[0] = at & 255;
		bytes[1] = (uint8_t)(at >> 8);
		bytes[2] = 1;
		seed("handover", at ? "later" : "first", bytes, 40);
	}
	bytes[1] = 16;
	memset(bytes + 2, 5, 64);
	seed("handover", "slots", bytes, 66);
}

/* Each of the first files is written to and read: whole blocks, parts, many at once, and past the end. */
static void transfers(void)
{
	static const uint8_t places[][2] = {{12, 0}, {13, 5}, {20, 255}, {40, 0}};
	uint8_t bytes[1024], *b = bytes;

	for (uint8_t ino = FS_INO_FIRST; ino < FS_INO_FIRST + 5; ino++)
		for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
			const uint8_t write[] = {13, 90 + ino, 0, 0, places[i][0], places[i][1], 0,
				(uint8_t)(12 + i), (uint8_t)(i % 2), 2, ino, 7};
			const uint8_t read[] = {12, 90 + ino, 0, 0, places[i][0], places[i][1], 13, 0};

			b = mempcpy(b, write, sizeof(write));
			b = mempcpy(b, read, sizeof(read));
		}
	seed("fuse", "transfers", bytes, (size_t)(b - bytes));
}

/* Requests take their numbers byte by byte, so that nearly anything is a request. */
static void requests(void)
{
	static const uint8_t lookup_open_write[] = {
		0, 100, 0, 'a', 0,		     /* lookup */
		11, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* open */
		13, 0, 0, 0, 12, 0, 0, 13, 0, 3, 1, 2, 3, /* write */
		12, 0, 0, 0, 12, 0, 13, 0,		  /* read */
		26, 0, 0, 12, 0, 20, 0, 3,		  /* fallocate */
		28, 0, 0, 0, 0, 3,			  /* lseek */
		2, 0, 0, 8, 0, 44, 0,			  /* setattr */
	};
	struct rng rng;
	uint8_t bytes[700];
	char name[16];

	seed("fuse", "write", lookup_open_write, sizeof(lookup_open_write));
	rng_seed(&rng, 1);
	for (int i = 0; i < 6; i++) {
		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = (uint8_t)rng_below(&rng, rng_below(&rng, 2) ? 256 : 40);
		snprintf(name, sizeof(name), "any%d", i);
		seed("fuse", name, bytes, sizeof(bytes));
	}
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: seeds FOLDER\n");
		return 2;
	}
	top = argv[1];
	mkdir(top, 0755);
	quiet();
	from_store(TEMPLATE_CLOSED);
	from_store(TEMPLATE_KILLED);
	stores();
	sums();
	indexes();
	texts();
	probes();
	handovers();
	requests();
	transfers();
	return 0;
}
