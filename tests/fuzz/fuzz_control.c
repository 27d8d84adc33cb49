/* SPDX-License-Identifier: MIT */
/*
 * Control requests: whatever is written to the control file gets a reply, and a reply is JSON. The
 * first byte says who asks; what follows are requests, each ended by a NUL.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "../crash/simdisk.h"
#include "core/fs.h"
#include "fuzz.h"
#include "service/service.h"

static void ask(struct service *service, uint32_t uid, const char *request, size_t len)
{
	const struct service_caller caller = {.uid = uid, .gid = uid};
	size_t reply_len = 0;
	char *reply = NULL;
	json_t *json;

	if (service_control(service, &caller, request, len, &reply, &reply_len) < 0)
		return;
	json = json_loadb(reply, reply_len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(json) || strlen(reply) != reply_len)
		abort();
	json_decref(json);
	free(reply);
}

static void read_files(struct service *service, uint32_t uid)
{
	const struct service_caller reader = {.uid = uid, .gid = uid};

	for (uint64_t ino = FS_INO_VIRTUAL; ino < FS_INO_FIRST; ino++) {
		char *text;
		size_t len;

		if (service_read(service, &reader, ino, &text, &len) == 0)
			free(text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct service_info info = {
		.mountpoint = "/mnt/vms", .images = "/srv/gi", .store = "/srv/gi/.goldfs",
		.owner_uid = 1000, .owner_gid = 100, .clone_metrics = 1};
	struct fs_options options = store_options();
	struct simdisk *disk = store_disk(TEMPLATE_CLOSED);
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	const uint32_t uids[] = {0, 1000, 1001, 65534};
	struct service *service;
	struct fs *fs;

	if (fs_open(&fs, simdisk_io(disk), &options) || service_new(&service, fs, &info))
		abort();
	for (int i = 0; i < 8 && in.left; i++) {
		const uint8_t *end = memchr(in.at, 0, in.left);
		size_t len = end && !(how & 128) ? (size_t)(end - in.at) : in.left;
		size_t skip = 1;
		const char *text = (const char *)input_bytes(&in, &len);

		ask(service, uids[how % 4], text, len);
		input_bytes(&in, &skip);
	}
	read_files(service, uids[how % 4]);
	service_free(service);
	fs_close(fs);
	simdisk_free(disk);
	return 0;
}
