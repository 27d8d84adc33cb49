/* SPDX-License-Identifier: MIT */
#include "core/fs_internal.h"

int golden_index_find(struct fs *fs, const void *bytes, uint64_t *golden, uint64_t *block)
{
	return 0;
}
