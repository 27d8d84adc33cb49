/* SPDX-License-Identifier: MIT */
#include "fuse/busy_poll.h"

#define CREDIT_MAX 8u
#define TRY_EVERY 64u
#define PUT_ASIDE_NS (BUSY_POLL_NS + 40000) /* looking once takes less than the difference */

bool busy_poll_is_due(struct busy_poll *poll)
{
	if (poll->off)
		return false;
	if (!poll->credit && ++poll->skipped < TRY_EVERY)
		return false;
	poll->skipped = 0;
	return true;
}

void busy_poll_note(struct busy_poll *poll, bool found, int64_t ns)
{
	if (ns >= PUT_ASIDE_NS)
		poll->credit = 0;
	else if (found && poll->credit < CREDIT_MAX)
		poll->credit++;
	else if (!found && poll->credit)
		poll->credit--;
}
