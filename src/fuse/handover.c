/* SPDX-License-Identifier: MIT */
/*
 * See handover.h. The memory is a header of one page, behind it the table of handles, and behind
 * that the notes. It has its full size from the start, so that no pointer ever moves; pages that
 * nobody has written to take no memory, and how far the table and the notes reach stands in the
 * header.
 *
 * A handle's state is one word: a generation, which makes every handle of a slot a different
 * number, and two bits. Its other fields are written while the word says FREE, and the word last.
 *
 *   FREE --open--> MADE --answered--> SURE --release--> FREE, the generation one higher
 *
 * MADE matters to a successor only: whether the kernel knows of that handle is not certain.
 *
 * Which slots are free is no business of a successor's: each process finds out when it maps the
 * memory, and keeps a list of its own under a lock of its own.
 */
#include "fuse/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define MAGIC "GOLDHAND"
#define VERSION 2 /* also of what each worker has to keep true in it, such as in_flight */
#define HEADER_SIZE 4096
#define SLOT_BITS 20
#define SLOTS_MAX (1u << SLOT_BITS)
#define SLOTS_STEP 128u /* the table grows by a page */
#define NOTES_PLACE (HEADER_SIZE + SLOTS_MAX * sizeof(struct slot))
#define NOTES_MAX ((size_t)32 << 20)
#define NOTES_URGENT ((size_t)64 << 10) /* the last of it */
#define MEMORY_SIZE (NOTES_PLACE + NOTES_MAX)
#define GENERATION_MASK ((UINT64_C(1) << (63 - SLOT_BITS)) - 1)

/* INIT flag: "the kernel can send requests again". Not in the headers of Debian 12. */
#define HAS_RESEND (UINT64_C(1) << 39)

enum slot_state { SLOT_FREE, SLOT_MADE, SLOT_SURE };
#define STATE_BITS 2

struct slot {
	_Atomic uint64_t word; /* generation << STATE_BITS | state */
	uint64_t ino;
	uint64_t unique;
	uint32_t flags;
	uint32_t reserved;
};
_Static_assert(sizeof(struct slot) == 32, "slots fill pages");

struct header {
	char magic[8];
	uint32_t version;
	uint32_t size;	    /* of this structure */
	uint32_t slot_size;
	uint32_t reserved;
	uint64_t connection;
	struct handover_figures figures;
	_Atomic uint32_t upgrade; /* which of the two texts counts */
	char upgrade_text[2][HANDOVER_TEXT_MAX];
	_Atomic uint32_t slot_count; /* of the table, used ones and free ones */
	_Atomic uint64_t notes_len;  /* bytes */
	_Atomic uint32_t agreed; /* the agreement is there */
	struct fuse_agreement agreement;
	struct in_flight in_flight;
};
_Static_assert(sizeof(struct header) <= HEADER_SIZE, "the header fits");

struct handover {
	struct header *header;
	struct slot *slots;
	pthread_mutex_t lock; /* protects what follows */
	uint32_t *free_slots; /* a stack */
	uint32_t free_count;
	uint32_t free_room;
};

bool fuse_agreement_can_resend(const struct fuse_agreement *agreement)
{
	return agreement->kernel_flags & HAS_RESEND;
}

/* ---- making and mapping ---- */

static int write_header(int fd)
{
	struct header header = {.version = VERSION, .size = sizeof(header),
		.slot_size = sizeof(struct slot)};
	ssize_t n;

	memcpy(header.magic, MAGIC, sizeof(header.magic));
	while (!header.connection)
		if (getrandom(&header.connection, sizeof(header.connection), 0) < 0)
			return -errno;
	n = pwrite(fd, &header, sizeof(header), 0);
	return n == sizeof(header) ? 0 : n < 0 ? -errno : -EIO;
}

int handover_create(void)
{
	CLEANUP_CLOSE int fd = memfd_create("goldfs-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, MEMORY_SIZE) < 0)
		return -errno;
	/* Made smaller under a mapping it would be SIGBUS. */
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return -errno;
	r = write_header(fd);
	return r < 0 ? r : steal_fd(&fd);
}

static int check_header(int fd)
{
	struct header header;
	struct stat st;
	ssize_t n = pread(fd, &header, sizeof(header), 0);

	if (n < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((size_t)n < offsetof(struct header, connection) ||
		memcmp(header.magic, MAGIC, sizeof(header.magic)) != 0)
		return -EUCLEAN;
	if (header.version != VERSION || header.size != sizeof(header) ||
		header.slot_size != sizeof(struct slot))
		return -EPROTONOSUPPORT;
	if (n != sizeof(header) || st.st_size < (off_t)MEMORY_SIZE || !header.connection ||
		atomic_load(&header.slot_count) > SLOTS_MAX ||
		atomic_load(&header.notes_len) > NOTES_MAX)
		return -EUCLEAN;
	return 0;
}

static int push_free_locked(struct handover *h, uint32_t slot)
{
	if (h->free_count == h->free_room) {
		uint32_t room = h->free_room ? h->free_room * 2 : SLOTS_STEP;
		uint32_t *list = reallocarray(h->free_slots, room, sizeof(*list));

		if (!list)
			return -ENOMEM;
		h->free_slots = list;
		h->free_room = room;
	}
	h->free_slots[h->free_count++] = slot;
	return 0;
}

static uint32_t slot_count(const struct handover *h)
{
	return atomic_load(&h->header->slot_count);
}

static uint64_t word_of(struct handover *h, uint32_t slot)
{
	return atomic_load_explicit(&h->slots[slot].word, memory_order_acquire);
}

static enum slot_state state_of(uint64_t word)
{
	return (enum slot_state)(word & ((1 << STATE_BITS) - 1));
}

static int find_free(struct handover *h)
{
	/* From the end, so that low numbers are given out first. */
	for (uint32_t i = slot_count(h); i-- > 0;)
		if (state_of(word_of(h, i)) == SLOT_FREE && push_free_locked(h, i) < 0)
			return -ENOMEM;
	return 0;
}

int handover_open(struct handover **out, int fd)
{
	struct handover *h;
	int r = check_header(fd);

	if (r < 0)
		return r;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	pthread_mutex_init(&h->lock, NULL);
	h->header = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
		fd, 0);
	if (h->header == MAP_FAILED) {
		h->header = NULL;
		r = -errno;
	} else {
		h->slots = (void *)((char *)h->header + HEADER_SIZE);
		r = find_free(h);
	}
	if (r < 0) {
		handover_close(h);
		return r;
	}
	*out = h;
	return 0;
}

void handover_close(struct handover *h)
{
	if (!h)
		return;
	if (h->header)
		munmap(h->header, MEMORY_SIZE);
	pthread_mutex_destroy(&h->lock);
	free(h->free_slots);
	free(h);
}

/* ---- what there is one of ---- */

uint64_t handover_connection(const struct handover *h)
{
	return h->header->connection;
}

struct handover_figures *handover_figures(struct handover *h)
{
	return &h->header->figures;
}

struct in_flight *handover_in_flight(struct handover *h)
{
	return &h->header->in_flight;
}

void handover_set_upgrade(struct handover *h, const char *text)
{
	uint32_t next = (atomic_load(&h->header->upgrade) + 1) % 2;
	char *to = h->header->upgrade_text[next];

	memset(to, 0, HANDOVER_TEXT_MAX);
	memcpy(to, text, strnlen(text, HANDOVER_TEXT_MAX - 1));
	atomic_store(&h->header->upgrade, next);
}

void handover_upgrade(struct handover *h, char text[HANDOVER_TEXT_MAX])
{
	memcpy(text, h->header->upgrade_text[atomic_load(&h->header->upgrade) % 2],
		HANDOVER_TEXT_MAX);
	text[HANDOVER_TEXT_MAX - 1] = '\0';
}

void handover_set_agreement(struct handover *h, const struct fuse_agreement *agreement)
{
	h->header->agreement = *agreement;
	atomic_store(&h->header->agreed, 1);
}

bool handover_agreement(const struct handover *h, struct fuse_agreement *agreement)
{
	if (!atomic_load(&h->header->agreed) ||
		h->header->agreement.init_len > sizeof(agreement->init))
		return false;
	*agreement = h->header->agreement;
	return true;
}

/* ---- handles ---- */

/* Bit 63 keeps them apart from 0, which is what files have that need none. */
static uint64_t fh_of(uint32_t slot, uint64_t word)
{
	return UINT64_C(1) << 63 | ((word >> STATE_BITS) & GENERATION_MASK) << SLOT_BITS | slot;
}

/* The slot of a handle that is there, or -1. */
static int64_t slot_of(struct handover *h, uint64_t fh, uint64_t *word)
{
	uint32_t slot = fh & (SLOTS_MAX - 1);

	if (slot >= slot_count(h))
		return -1;
	*word = word_of(h, slot);
	return state_of(*word) != SLOT_FREE && fh_of(slot, *word) == fh ? (int64_t)slot : -1;
}

static int grow_locked(struct handover *h)
{
	uint32_t old = slot_count(h), count = old + SLOTS_STEP;

	if (count > SLOTS_MAX)
		return -ENFILE;
	atomic_store(&h->header->slot_count, count);
	for (uint32_t i = count; i-- > old;)
		if (push_free_locked(h, i) < 0)
			return -ENOMEM;
	return 0;
}

int handover_handle_new(struct handover *h, uint64_t ino, uint32_t flags, uint64_t unique,
	uint64_t *fh)
{
	struct slot *s;
	uint32_t slot;
	uint64_t word;
	int r;

	MUTEX_GUARD(&h->lock);
	if (!h->free_count) {
		r = grow_locked(h);
		if (r < 0)
			return r;
	}
	slot = h->free_slots[--h->free_count];
	s = &h->slots[slot];
	s->ino = ino;
	s->unique = unique;
	s->flags = flags;
	word = (atomic_load(&s->word) & ~(uint64_t)((1 << STATE_BITS) - 1)) | SLOT_MADE;
	atomic_store_explicit(&s->word, word, memory_order_release);
	*fh = fh_of(slot, word);
	return 0;
}

void handover_handle_sure(struct handover *h, uint64_t fh)
{
	uint64_t word;
	int64_t slot;

	MUTEX_GUARD(&h->lock);
	slot = slot_of(h, fh, &word);
	/* Ended already, when its RELEASE was faster. */
	if (slot >= 0 && state_of(word) == SLOT_MADE)
		atomic_store(&h->slots[slot].word, word - SLOT_MADE + SLOT_SURE);
}

bool handover_handle_end(struct handover *h, uint64_t fh, uint64_t ino, uint32_t *flags)
{
	uint64_t word;
	int64_t slot;

	MUTEX_GUARD(&h->lock);
	slot = slot_of(h, fh, &word);
	if (slot < 0 || h->slots[slot].ino != ino)
		return false;
	*flags = h->slots[slot].flags;
	word = ((word >> STATE_BITS) + 1) << STATE_BITS | SLOT_FREE;
	atomic_store_explicit(&h->slots[slot].word, word, memory_order_release);
	/* Without memory for the list the slot is found by the next process. */
	push_free_locked(h, (uint32_t)slot);
	return true;
}

static bool look_at(struct handover *h, uint32_t slot, struct handover_handle *handle)
{
	const struct slot *s = &h->slots[slot];
	uint64_t word = word_of(h, slot);

	if (state_of(word) == SLOT_FREE)
		return false;
	*handle = (struct handover_handle){
		.fh = fh_of(slot, word),
		.ino = s->ino,
		.unique = s->unique,
		.flags = s->flags,
		.sure = state_of(word) == SLOT_SURE,
	};
	return word_of(h, slot) == word;
}

bool handover_handle_of(struct handover *h, uint64_t unique, struct handover_handle *handle)
{
	uint32_t count = slot_count(h);

	for (uint32_t i = 0; i < count; i++)
		if (look_at(h, i, handle) && handle->unique == unique)
			return true;
	return false;
}

void handover_handles_each(struct handover *h,
	void (*cb)(void *arg, const struct handover_handle *handle), void *arg)
{
	uint32_t count = slot_count(h);
	struct handover_handle handle;

	for (uint32_t i = 0; i < count; i++)
		if (look_at(h, i, &handle))
			cb(arg, &handle);
}

/* ---- notes ---- */

int handover_note(struct handover *h, const void *bytes, size_t len, bool urgent)
{
	size_t room = NOTES_MAX - (urgent ? 0 : NOTES_URGENT);
	size_t used;

	MUTEX_GUARD(&h->lock);
	used = atomic_load(&h->header->notes_len);
	if (used > room || len > room - used)
		return -ENOSPC;
	memcpy((char *)h->header + NOTES_PLACE + used, bytes, len);
	atomic_store(&h->header->notes_len, used + len);
	return 0;
}

const void *handover_notes(struct handover *h, size_t *len)
{
	*len = atomic_load(&h->header->notes_len);
	return (const char *)h->header + NOTES_PLACE;
}
