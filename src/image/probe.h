/* SPDX-License-Identifier: MIT */
/* Recognises image formats by their magic. Pure: bytes in, a format out. */
#ifndef GOLDFS_IMAGE_PROBE_H
#define GOLDFS_IMAGE_PROBE_H

#include <stddef.h>
#include <stdint.h>

enum image_format {
	IMAGE_RAW,
	IMAGE_QCOW2,
	IMAGE_VMDK,
	IMAGE_VDI,
	IMAGE_VHD,
	IMAGE_VHDX,
};

#define IMAGE_PROBE_HEAD 4096 /* bytes wanted from the start of the file */
#define IMAGE_PROBE_TAIL 512  /* bytes wanted from its end (a fixed VHD has its magic there) */

/* Either part may be shorter when the file is. */
enum image_format image_probe(const void *head, size_t head_len, const void *tail, size_t tail_len);
/* "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx". */
const char *image_format_name(enum image_format format);

#endif
