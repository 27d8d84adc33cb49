/* SPDX-License-Identifier: MIT */
#include "pagemap.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/sizes.h"

enum { BITS = 6, FANOUT = 1 << BITS, LEVELS = 6, TOP = LEVELS - 1 };

struct page {
	_Atomic uint32_t refs;
	_Atomic uint64_t hash; /* 0: not computed */
	uint8_t bytes[PAGEMAP_PAGE];
};

/* At level 0 the slots are pages, above they are nodes. */
struct pagemap_node {
	_Atomic uint32_t refs;
	uint32_t used;		 /* slots that are not NULL */
	uint64_t pages;		 /* below */
	_Atomic uint64_t hash; /* 0: not computed */
	void *slot[FANOUT];
};

/* Never freed and never written: its own reference stays. */
static struct page zero_page = {.refs = 1};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

static unsigned index_at(uint64_t page, int level)
{
	return (unsigned)(page >> (level * BITS)) & (FANOUT - 1);
}

static void page_put(struct page *page)
{
	if (page != &zero_page && atomic_fetch_sub(&page->refs, 1) == 1)
		free(page);
}

static void page_get(struct page *page)
{
	if (page != &zero_page)
		atomic_fetch_add(&page->refs, 1);
}

static void slot_get(void *slot, int level)
{
	if (level == 0)
		page_get(slot);
	else
		atomic_fetch_add(&((struct pagemap_node *)slot)->refs, 1);
}

static void node_put(struct pagemap_node *node, int level)
{
	if (atomic_fetch_sub(&node->refs, 1) != 1)
		return;
	for (unsigned i = 0; i < FANOUT; i++) {
		if (!node->slot[i])
			continue;
		if (level == 0)
			page_put(node->slot[i]);
		else
			node_put(node->slot[i], level - 1);
	}
	free(node);
}

void pagemap_clone(struct pagemap *dst, const struct pagemap *src)
{
	*dst = *src;
	if (dst->root)
		slot_get(dst->root, LEVELS);
}

void pagemap_release(struct pagemap *map)
{
	if (map->root)
		node_put(map->root, TOP);
	map->root = NULL;
}

/* *nodep, made or copied so that this map alone holds it. */
static struct pagemap_node *own_node(struct pagemap_node **nodep, int level)
{
	struct pagemap_node *old = *nodep, *node;

	if (old && atomic_load(&old->refs) == 1) {
		atomic_store(&old->hash, 0);
		return old;
	}
	node = must(calloc(1, sizeof(*node)));
	node->refs = 1;
	if (old) {
		node->used = old->used;
		node->pages = old->pages;
		memcpy(node->slot, old->slot, sizeof(node->slot));
		for (unsigned i = 0; i < FANOUT; i++) {
			if (node->slot[i])
				slot_get(node->slot[i], level);
		}
		node_put(old, level);
	}
	*nodep = node;
	return node;
}

static const struct page *find_page(const struct pagemap *map, uint64_t page)
{
	const struct pagemap_node *node = map->root;

	for (int level = TOP; node && level > 0; level--)
		node = node->slot[index_at(page, level)];
	return node ? node->slot[index_at(page, 0)] : NULL;
}

/* A page that this map alone holds and that has the old content. */
static struct page *own_page(void **slot)
{
	struct page *old = *slot, *page;

	if (old && old != &zero_page && atomic_load(&old->refs) == 1) {
		atomic_store(&old->hash, 0);
		return old;
	}
	page = must(malloc(sizeof(*page)));
	page->refs = 1;
	page->hash = 0;
	if (old) {
		memcpy(page->bytes, old->bytes, PAGEMAP_PAGE);
		page_put(old);
	} else {
		memset(page->bytes, 0, PAGEMAP_PAGE);
	}
	*slot = page;
	return page;
}

static void set_page(struct pagemap *map, uint64_t page, const uint8_t *bytes, size_t at, size_t len)
{
	struct pagemap_node *path[LEVELS], **nodep = &map->root;
	void **slot;
	bool fresh;

	for (int level = TOP; level >= 0; level--) {
		path[level] = own_node(nodep, level);
		nodep = (struct pagemap_node **)&path[level]->slot[index_at(page, level)];
	}
	slot = (void **)nodep;
	fresh = !*slot;
	if (!bytes && (len == PAGEMAP_PAGE || fresh)) {
		if (*slot)
			page_put(*slot);
		*slot = &zero_page;
	} else if (bytes) {
		memcpy(own_page(slot)->bytes + at, bytes, len);
	} else {
		memset(own_page(slot)->bytes + at, 0, len);
	}
	for (int level = 0; level <= TOP && fresh; level++)
		path[level]->pages++;
	/* A node that was empty until now fills a slot of the one above. */
	for (int level = 0; level <= TOP && fresh; level++) {
		path[level]->used++;
		fresh = path[level]->used == 1;
	}
}

void pagemap_read(const struct pagemap *map, void *buf, size_t len, uint64_t off)
{
	uint8_t *out = buf;

	while (len) {
		const struct page *page = find_page(map, off / PAGEMAP_PAGE);
		size_t at = off % PAGEMAP_PAGE;
		size_t n = (size_t)min_u64(len, PAGEMAP_PAGE - at);

		if (page)
			memcpy(out, page->bytes + at, n);
		else
			memset(out, 0, n);
		out += n;
		off += n;
		len -= n;
	}
}

void pagemap_write(struct pagemap *map, const void *buf, size_t len, uint64_t off)
{
	const uint8_t *in = buf;

	while (len) {
		size_t at = off % PAGEMAP_PAGE;
		size_t n = (size_t)min_u64(len, PAGEMAP_PAGE - at);

		set_page(map, off / PAGEMAP_PAGE, in, at, n);
		if (in)
			in += n;
		off += n;
		len -= n;
	}
}

/* Drops the pages [first, end) below *nodep, whose own first page is base. Returns how many. */
static uint64_t drop_pages(struct pagemap_node **nodep, int level, uint64_t base, uint64_t first,
	uint64_t end)
{
	uint64_t span = UINT64_C(1) << (level * BITS), gone = 0;
	struct pagemap_node *node = *nodep;

	if (!node || first >= base + span * FANOUT || end <= base)
		return 0;
	if (first <= base && end >= base + span * FANOUT) {
		gone = node->pages;
		node_put(node, level);
		*nodep = NULL;
		return gone;
	}
	node = own_node(nodep, level);
	for (unsigned i = 0; i < FANOUT; i++) {
		uint64_t start = base + i * span;

		if (!node->slot[i] || start >= end || start + span <= first)
			continue;
		if (level == 0) {
			page_put(node->slot[i]);
			node->slot[i] = NULL;
			gone++;
		} else {
			gone += drop_pages((struct pagemap_node **)&node->slot[i], level - 1,
				start, first, end);
		}
		node->used -= !node->slot[i];
	}
	node->pages -= gone;
	if (!node->used) {
		node_put(node, level);
		*nodep = NULL;
	}
	return gone;
}

void pagemap_clear(struct pagemap *map, uint64_t off, uint64_t end)
{
	uint64_t first = round_up(off, PAGEMAP_PAGE), last = round_down(end, PAGEMAP_PAGE);

	if (off >= end)
		return;
	if (off % PAGEMAP_PAGE && find_page(map, off / PAGEMAP_PAGE))
		set_page(map, off / PAGEMAP_PAGE, NULL, off % PAGEMAP_PAGE,
			(size_t)(min_u64(first, end) - off));
	if (last >= first && end > last && find_page(map, last / PAGEMAP_PAGE))
		set_page(map, last / PAGEMAP_PAGE, NULL, 0, (size_t)(end - last));
	if (first < last)
		drop_pages(&map->root, TOP, 0, first / PAGEMAP_PAGE, last / PAGEMAP_PAGE);
}

/* The first page at or after `page` below node, or UINT64_MAX. */
static uint64_t next_page(const struct pagemap_node *node, int level, uint64_t base, uint64_t page)
{
	uint64_t span = UINT64_C(1) << (level * BITS);

	for (unsigned i = 0; node && i < FANOUT; i++) {
		uint64_t start = base + i * span, found;

		if (!node->slot[i] || start + span <= page)
			continue;
		if (level == 0)
			return start;
		found = next_page(node->slot[i], level - 1, start, page);
		if (found != UINT64_MAX)
			return found;
	}
	return UINT64_MAX;
}

int pagemap_next(const struct pagemap *map, uint64_t off, uint64_t *start, uint64_t *end)
{
	uint64_t page = next_page(map->root, TOP, 0, off / PAGEMAP_PAGE);

	if (page == UINT64_MAX)
		return -1;
	*start = max_u64(off, page * PAGEMAP_PAGE);
	while (find_page(map, page))
		page++;
	*end = page * PAGEMAP_PAGE;
	return 0;
}

uint64_t pagemap_missing(const struct pagemap *map, uint64_t off, uint64_t len)
{
	uint64_t n = 0;

	if (!len)
		return 0;
	for (uint64_t p = off / PAGEMAP_PAGE; p <= (off + len - 1) / PAGEMAP_PAGE; p++)
		n += !find_page(map, p);
	return n;
}

uint64_t pagemap_pages(const struct pagemap *map)
{
	return map->root ? map->root->pages : 0;
}

static uint64_t mix(uint64_t index, uint64_t hash)
{
	uint64_t pair[2] = {index, hash};

	return hash ? hash_struct(pair, sizeof(pair)) : 0;
}

static uint64_t page_hash(struct page *page)
{
	uint64_t h = atomic_load(&page->hash);

	if (page == &zero_page)
		return 0;
	if (!h) {
		/* 1 stands for "zeros", which count as a hole */
		h = is_zero(page->bytes, PAGEMAP_PAGE) ? 1 :
			hash_struct(page->bytes, PAGEMAP_PAGE) | 2;
		atomic_store(&page->hash, h);
	}
	return h == 1 ? 0 : h;
}

static uint64_t node_hash(struct pagemap_node *node, int level)
{
	uint64_t h = atomic_load(&node->hash);

	if (!h) {
		for (unsigned i = 0; i < FANOUT; i++) {
			if (!node->slot[i])
				continue;
			h += mix(i, level ? node_hash(node->slot[i], level - 1) :
					    page_hash(node->slot[i]));
		}
		h = h ? h | 2 : 1;
		atomic_store(&node->hash, h);
	}
	return h == 1 ? 0 : h;
}

uint64_t pagemap_hash(const struct pagemap *map)
{
	return map->root ? node_hash(map->root, TOP) : 0;
}
