/* SPDX-License-Identifier: MIT */
/* The bytes of golden images that the store keeps for clones. */
#include "core/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "image/pin.h"
#include "store/content_index.h"

static int bad_pin(struct check *c, const struct golden *g, const char *what, const char *advice)
{
	char path[64];

	snprintf(path, sizeof(path), "golden/%" PRIu64, g->id);
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "golden",
		.place = path, .golden = g->id, .advice = advice},
		"golden image \"%s\": %s", g->path, what);
}

static int check_opening(struct check *c, const struct golden *g, int result)
{
	static const char again[] =
		"put the bytes that it had back in place, or restore its clones from a backup";

	switch (result) {
	case 0:
		return 0;
	case -ESTALE:
		return bad_pin(c, g, "its bytes were changed in place, so its clones are not served",
			again);
	case -ENOENT:
		return bad_pin(c, g, "the bytes that the store kept are gone", again);
	case -EUCLEAN:
		return bad_pin(c, g, "the bytes that the store kept are damaged", again);
	default:
		return check_find(c, &(struct about){.severity = CHECK_DAMAGE,
			.structure = "golden", .golden = g->id, .offset = g->id, .advice = again},
			"golden image \"%s\" cannot be read: %s", g->path, strerror(-result));
	}
}

/* Sums of a pin are a hint that is made anew when it is missing. */
static int check_sums(struct check *c, const struct golden *g, int result)
{
	struct mend *m;
	char path[64];

	if (result != -EUCLEAN)
		return 0;
	snprintf(path, sizeof(path), "golden/%" PRIu64 ".sums", g->id);
	m = check_mend(c, MEND_REMOVE);
	if (m)
		snprintf(m->path, sizeof(m->path), "%s", path);
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "golden",
		.place = path, .repairable = true,
		.advice = "--repair removes it, and the next mount computes it anew"},
		"checksums of golden image \"%s\" are damaged", g->path);
}

/* So is the content index; what is wrong with it costs nobody a byte. */
static int check_index(struct check *c, const struct golden *g, const struct pin_print *print)
{
	struct content_index *index = NULL;
	int r = content_index_open(&index, c->io, c->super.secret, g->id, print);
	char path[CONTENT_PATH_MAX];
	struct mend *m;

	if (!r)
		r = content_index_verify(index);
	content_index_free(index);
	if (r != -EUCLEAN)
		return 0;
	content_path(path, g->id, CONTENT_FILE);
	m = check_mend(c, MEND_REMOVE);
	if (m)
		snprintf(m->path, sizeof(m->path), "%s", path);
	return check_find(c, &(struct about){.severity = CHECK_NOTE, .structure = "index",
		.place = path, .repairable = true,
		.advice = "--repair removes it, and the next mount makes it anew"},
		"the content index of golden image \"%s\" is damaged or of something else",
		g->path);
}

static int check_kept(struct check *c, struct golden *g)
{
	struct pin_print print = g->print;
	struct image *image = NULL;
	int fd = c->options->store_fd, sums = pin_sums_exist(fd, g->id);
	int r = pin_open(fd, g->id, g->pin, &print, &image);

	if (!r && !sums)
		r = pin_verify(fd, g->id, image);
	/* Only a file that IMAGES has, too, can have been changed by somebody. */
	if (r == -ESTALE && g->pin != GF_PIN_LINK)
		r = -EUCLEAN;
	image_free(image);
	r = check_opening(c, g, r);
	if (!r)
		r = check_sums(c, g, sums);
	return r ? r : check_index(c, g, &print);
}

static int check_golden(struct check *c, struct golden *g)
{
	int r = 0;

	c->report->golden_images++;
	switch (atomic_load(&g->pin)) {
	case GF_PIN_REFLINK:
	case GF_PIN_LINK:
	case GF_PIN_COPY:
		r = check_kept(c, g);
		break;
	case GF_PIN_COPYING:
		if (!c->options->images)
			return check_find(c, &(struct about){.severity = CHECK_NOTE,
				.structure = "golden", .golden = g->id, .offset = g->id,
				.advice = "its clones need the image in its folder until the copy is made"},
				"golden image \"%s\" was not copied into the store yet", g->path);
		r = golden_acquire(g);
		if (!r)
			pthread_rwlock_unlock(&g->lock);
		r = check_opening(c, g, r ? -ESTALE : 0);
		break;
	case GF_PIN_FENCED:
		r = bad_pin(c, g, "it was changed in place, so its clones are not served",
			"put the old image back, or remove its clones");
		break;
	}
	return r ? r : check_progress(c, g->image.size);
}

int check_goldens(struct check *c)
{
	struct golden *g, *next;
	int r = 0;

	if (c->options->golden_test || c->options->store_fd < 0)
		return 0;
	HASH_ITER (hh, c->fs->goldens, g, next)
		r = r ? r : check_golden(c, g);
	return r;
}
