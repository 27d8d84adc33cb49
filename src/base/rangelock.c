/* SPDX-License-Identifier: MIT */
/* Range locks as a list of held ranges; see the header for why a list is enough. */
#include "base/rangelock.h"

#include "base/blocking.h"
#include "base/cleanup.h"

void rangelock_init(struct rangelock *rl)
{
	pthread_mutex_init(&rl->lock, NULL);
	pthread_cond_init(&rl->freed, NULL);
	rl->held = NULL;
	rl->waiting = 0;
}

void rangelock_release(struct rangelock *rl)
{
	pthread_cond_destroy(&rl->freed);
	pthread_mutex_destroy(&rl->lock);
}

static bool overlaps_locked(const struct rangelock *rl, uint64_t first, uint64_t last)
{
	for (const struct range *r = rl->held; r; r = r->next)
		if (first <= r->last && r->first <= last)
			return true;
	return false;
}

void rangelock_lock(struct rangelock *rl, struct range *range, uint64_t first, uint64_t last)
{
	MUTEX_GUARD(&rl->lock);
	while (overlaps_locked(rl, first, last)) {
		rl->waiting++;
		about_to_block();
		pthread_cond_wait(&rl->freed, &rl->lock);
		rl->waiting--;
	}
	range->first = first;
	range->last = last;
	range->next = rl->held;
	rl->held = range;
}

void rangelock_unlock(struct rangelock *rl, struct range *range)
{
	MUTEX_GUARD(&rl->lock);
	for (struct range **p = &rl->held; *p; p = &(*p)->next) {
		if (*p == range) {
			*p = range->next;
			break;
		}
	}
	if (rl->waiting)
		pthread_cond_broadcast(&rl->freed);
}

bool rangelock_covers(struct rangelock *rl, uint64_t first, uint64_t last)
{
	MUTEX_GUARD(&rl->lock);
	for (const struct range *r = rl->held; r; r = r->next)
		if (r->first <= first && last <= r->last)
			return true;
	return false;
}
