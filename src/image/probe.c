/* SPDX-License-Identifier: MIT */
/*
 * Image formats by their magic.
 *
 * A false alarm refuses to clone a good raw disk, and a miss clones a container as if it were a
 * disk. Both are bad, so a magic counts together with the version field beside it where the format
 * has one that narrows it down. A raw disk whose guest wrote such a magic into its first sector can
 * still be cloned with --opaque.
 */
#include "image/probe.h"

#include <string.h>
#include <strings.h>

#define VDI_SIGNATURE 0xbeda107fu
#define VDI_SIGNATURE_AT 64
#define VHD_TYPE_FIXED 2u
#define VHD_TYPE_AT 60
#define VHD_FOOTER 512

static const char vmdk_text[] = "# Disk DescriptorFile";

/* Part of the file, with its bounds. */
struct view {
	const unsigned char *bytes;
	size_t len;
};

static int has(struct view v, size_t at, const char *magic, size_t len)
{
	return v.len >= at + len && memcmp(v.bytes + at, magic, len) == 0;
}

static uint32_t le32(struct view v, size_t at)
{
	const unsigned char *p = v.bytes + at;

	if (v.len < at + 4)
		return 0;
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t be32(struct view v, size_t at)
{
	return __builtin_bswap32(le32(v, at));
}

static int is_vmdk(struct view head)
{
	size_t at = 0;

	if (has(head, 0, "KDMV", 4))
		return le32(head, 4) >= 1 && le32(head, 4) <= 3;
	if (has(head, 0, "COWD", 4))
		return le32(head, 4) == 1;
	while (at < head.len && strchr(" \t\r\n", head.bytes[at]) && head.bytes[at])
		at++;
	return head.len - at >= sizeof(vmdk_text) - 1 &&
	       strncasecmp((const char *)head.bytes + at, vmdk_text, sizeof(vmdk_text) - 1) == 0;
}

/* A dynamic VHD starts with a copy of its footer, a fixed one has only the footer. */
static int is_vhd(struct view head, struct view tail)
{
	if (has(head, 0, "conectix", 8))
		return 1;
	if (tail.len < VHD_FOOTER)
		return 0;
	tail.bytes += tail.len - VHD_FOOTER;
	tail.len = VHD_FOOTER;
	return has(tail, 0, "conectix", 8) && be32(tail, VHD_TYPE_AT) == VHD_TYPE_FIXED;
}

enum image_format image_probe(const void *head, size_t head_len, const void *tail, size_t tail_len)
{
	struct view h = {head, head_len};
	struct view t = {tail, tail_len};

	if (has(h, 0, "QFI\xfb", 4) && be32(h, 4) >= 1 && be32(h, 4) <= 255)
		return IMAGE_QCOW2;
	if (has(h, 0, "vhdxfile", 8))
		return IMAGE_VHDX;
	if (is_vmdk(h))
		return IMAGE_VMDK;
	if (le32(h, VDI_SIGNATURE_AT) == VDI_SIGNATURE)
		return IMAGE_VDI;
	if (is_vhd(h, t))
		return IMAGE_VHD;
	return IMAGE_RAW;
}

const char *image_format_name(enum image_format format)
{
	static const char *const names[] = {
		[IMAGE_RAW] = "raw",
		[IMAGE_QCOW2] = "qcow2",
		[IMAGE_VMDK] = "vmdk",
		[IMAGE_VDI] = "vdi",
		[IMAGE_VHD] = "vhd",
		[IMAGE_VHDX] = "vhdx",
	};

	return (unsigned)format < sizeof(names) / sizeof(names[0]) ? names[format] : "raw";
}
