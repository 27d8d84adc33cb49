/* SPDX-License-Identifier: MIT */
/*
 * goldfs top on a terminal, as administrators know it from iotop.
 *
 * Requests are made by a thread of their own, one at a time: while a worker is being replaced, or a
 * disk hangs, a request waits in the kernel, and the keys are to work all the same. The thread gets
 * a byte for each request and gives back a pointer to the answer; it is not waited for at the end.
 *
 * The terminal is given back whatever ends the view: signals that would end the process are taken
 * from a descriptor, and raised again after that. A message comes last, where it can be read.
 */
#include <curses.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <wchar.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/times.h"
#include "cli/client.h"
#include "cli/format.h"
#include "cli/message.h"
#include "cli/top.h"
#include "cli/verbs.h"
#include "service/names.h"

#define PATH_ROOM 24	      /* columns are left out before a long path gets less */
#define LATE_NS 2000000000    /* without an answer for so long, the view says so */

/* Pairs of keys: of the last interval, and since the view began, NULL where that stands in another
 * column. Those with a higher rank are left out first where the terminal is narrow. */
static const struct screen_column {
	const char *now, *all;
	int width;
	int rank;
} screen_columns[] = {
	{"read_bytes_per_second", "read_bytes", 8, 0},
	{"write_bytes_per_second", "write_bytes", 8, 0},
	{"read_ops_per_second", "read_ops", 9, 4},
	{"write_ops_per_second", "write_ops", 9, 4},
	{"flush_ops_per_second", "flush_ops", 9, 1},
	{"read_latency_ns", "read_latency_all_ns", 7, 3},
	{"read_latency_max_ns", "read_latency_max_all_ns", 7, 5},
	{"write_latency_ns", "write_latency_all_ns", 7, 3},
	{"write_latency_max_ns", "write_latency_max_all_ns", 7, 5},
	{"flush_latency_ns", "flush_latency_all_ns", 7, 3},
	{"flush_latency_max_ns", "flush_latency_max_all_ns", 7, 5},
	{"unique_bytes", "unique_bytes", 8, 1},
	{"unique_bytes_per_second", "unique_growth_bytes", 10, 2},
	{"unique_growth_bytes", NULL, 9, 6},
	{"shared_bytes_per_second", "shared_growth_bytes", 10, 6},
	{"shared_growth_bytes", NULL, 9, 7},
	{"path", "path", 0, 0},
};
#define COLUMNS ((int)ARRAY_SIZE(screen_columns))

static const double delays[] = {0.2, 0.5, 1, 2, 3, 5, 10, 30, 60};

struct answer {
	json_t *reply;
	int err;
	bool all;
};

struct asker {
	const char *mountpoint;
	int ask[2];    /* a byte for each request: whether all are wanted */
	int answer[2]; /* pointers to answers */
};

struct screen {
	struct top *top;
	const char *mountpoint;
	struct asker asker;
	bool asking;
	int64_t asked_ns, next_ns; /* CLOCK_MONOTONIC */
	double delay;
	enum top_filter filter, wide_filter; /* the second: without "o" */
	int sort; /* of screen_columns */
	int direction;
	bool since_start;
	bool paused;
	bool help;
	size_t scroll;
	int path_room; /* what the longest path takes, but not more than PATH_ROOM */
	int ended_by; /* a signal, 0: none */
	bool quit;
};

/* ---- asking ---- */

static void *ask_thread(void *arg)
{
	struct asker *asker = arg;
	char all;

	while (read(asker->ask[0], &all, 1) == 1) {
		struct answer *answer = calloc(1, sizeof(*answer));

		if (!answer)
			break;
		answer->all = all;
		answer->err = client_try(asker->mountpoint,
			json_pack("{s:s, s:b}", "verb", "top", "all", (int)all), &answer->reply);
		if (write(asker->answer[1], &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
			break;
	}
	return NULL;
}

static int asker_start(struct asker *asker, const char *mountpoint)
{
	pthread_t thread;

	asker->mountpoint = mountpoint;
	if (pipe2(asker->ask, O_CLOEXEC) < 0 || pipe2(asker->answer, O_CLOEXEC) < 0)
		return -errno;
	return -pthread_create(&thread, NULL, ask_thread, asker);
}

static void ask(struct screen *s)
{
	char all = s->wide_filter == TOP_ALL || top_wants_all(s->top);

	s->asked_ns = times_now(CLOCK_MONOTONIC);
	s->next_ns = s->asked_ns + (int64_t)(s->delay * 1e9);
	s->asking = write(s->asker.ask[1], &all, 1) == 1;
}

/* Takes an answer in. The view ends when there is none: why is said when it has ended. */
static struct answer *take_answer(struct screen *s)
{
	struct answer *answer;

	if (read(s->asker.answer[0], &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
		return NULL;
	s->asking = false;
	if (answer->err < 0 || !client_is_done(answer->reply) ||
		top_take(s->top, answer->reply, answer->all) < 0)
		return answer;
	json_decref(answer->reply);
	free(answer);
	return NULL;
}

/* ---- drawing ---- */

static const char *key_of(const struct screen *s, int column)
{
	const struct screen_column *c = &screen_columns[column];

	return s->since_start && c->all ? c->all : c->now;
}

/* Which columns find room: marks them, and returns what they take. */
static int choose_columns(const struct screen *s, bool *shown)
{
	int taken = 0, rank = 8;

	do {
		rank--;
		taken = 0;
		for (int i = 0; i < COLUMNS; i++) {
			shown[i] = screen_columns[i].rank <= rank &&
				   (screen_columns[i].all || !s->since_start);
			taken += shown[i] ? screen_columns[i].width : 0;
		}
	} while (rank > 0 && taken + 1 + s->path_room > COLS);
	return taken;
}

/* One character of a path as it may be shown, and its width: a control character, and what is no
 * character here, is escaped. */
static int fit_character(const char **p, mbstate_t *state, char *out, size_t size)
{
	wchar_t wide;
	size_t len = mbrtowc(&wide, *p, MB_CUR_MAX, state);
	int width = len > 0 && len <= MB_CUR_MAX ? wcwidth(wide) : -1;

	if (width >= 0) {
		snprintf(out, size, "%.*s", (int)len, *p);
		*p += len;
		return width;
	}
	memset(state, 0, sizeof(*state));
	snprintf(out, size, "\\x%02x", (unsigned char)**p);
	++*p;
	return 4;
}

/* Puts as much of text as fits. */
static void put_text(const char *text, int room)
{
	mbstate_t state = {0};
	char out[16];

	while (*text) {
		int width = fit_character(&text, &state, out, sizeof(out));

		if (width > room)
			return;
		addstr(out);
		room -= width;
	}
}

static void put_line(int y, const char *text)
{
	move(y, 0);
	clrtoeol();
	put_text(text, COLS);
}

static void put_cell(int width, const char *text)
{
	printw(" %*.*s", width - 1, width - 1, text);
}

static void draw_headings(const struct screen *s, int y, const bool *shown)
{
	move(y, 0);
	attron(A_REVERSE);
	hline(' ', COLS);
	for (int i = 0; i < COLUMNS; i++) {
		const char *name = view_column(top_columns, key_of(s, i))->name;

		if (!shown[i])
			continue;
		if (i == s->sort)
			attron(A_BOLD | A_UNDERLINE);
		if (screen_columns[i].width)
			put_cell(screen_columns[i].width, name);
		else
			printw(" %s", name);
		attroff(A_BOLD | A_UNDERLINE);
	}
	attroff(A_REVERSE);
}

/* The mount stands above. */
static const char *short_path(const struct screen *s, const char *path)
{
	size_t prefix = strlen(s->mountpoint);

	if (strncmp(path, s->mountpoint, prefix) == 0 && path[prefix] == '/')
		path += prefix + 1;
	return path;
}

static void measure_paths(struct screen *s, json_t *rows)
{
	json_t *row;
	size_t i;

	s->path_room = 0;
	json_array_foreach(rows, i, row) {
		const char *path = json_string_value(json_object_get(row, "path"));
		size_t len = path ? strlen(short_path(s, path)) : 0;

		s->path_room = (int)max_u64((uint64_t)s->path_room, min_u64(len, PATH_ROOM));
	}
}

static void draw_row(const struct screen *s, int y, int taken, const bool *shown, json_t *row)
{
	const struct view view = {.bytes = false};

	move(y, 0);
	clrtoeol();
	for (int i = 0; i < COLUMNS; i++) {
		CLEANUP_FREE char *cell =
			view_cell(&view, row, view_column(top_columns, key_of(s, i)));

		if (!shown[i])
			continue;
		if (screen_columns[i].width) {
			put_cell(screen_columns[i].width, cell ? cell : "");
			continue;
		}
		addch(' ');
		put_text(short_path(s, cell ? cell : ""), COLS - taken - 1);
	}
}

static double sum(json_t *rows, const char *key)
{
	double total = 0;
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		total += row_number(row, key);
	return total;
}

static void draw_sums(int y, json_t *rows)
{
	char rb[32], wb[32], ro[FORMAT_LEN], wo[FORMAT_LEN], fo[FORMAT_LEN];
	char line[256];

	size_format((uint64_t)sum(rows, "read_bytes_per_second"), rb, sizeof(rb));
	size_format((uint64_t)sum(rows, "write_bytes_per_second"), wb, sizeof(wb));
	format_rate(sum(rows, "read_ops_per_second"), ro, sizeof(ro));
	format_rate(sum(rows, "write_ops_per_second"), wo, sizeof(wo));
	format_rate(sum(rows, "flush_ops_per_second"), fo, sizeof(fo));
	snprintf(line, sizeof(line),
		"Sum:   read %s/s, %s/s; write %s/s, %s/s; flush %s/s; %zu clones", rb, ro, wb, wo, fo,
		json_array_size(rows));
	put_line(y, line);
}

static void draw_head(const struct screen *s, json_t *rows)
{
	CLEANUP_FREE char *store = top_store_text(s->top);
	CLEANUP_FREE char *first = NULL;
	CLEANUP_FREE char *second = NULL;
	char restarts[64] = "";
	bool late = s->asking && times_now(CLOCK_MONOTONIC) - s->asked_ns > LATE_NS;

	if (top_restarts(s->top))
		snprintf(restarts, sizeof(restarts), ", worker replaced %u times",
			top_restarts(s->top));
	if (asprintf(&first, "goldfs top: %s, every %gs for %.0fs%s%s%s%s%s", s->mountpoint, s->delay,
		    top_age(s->top), restarts, s->since_start ? ", since the start" : "",
		    s->filter == TOP_ACTIVE ? ", active only" : "", s->paused ? ", PAUSED" : "",
		    late ? ", WAITING for an answer" : "") < 0)
		first = NULL;
	if (!store || asprintf(&second, "Store: %s", store) < 0)
		second = NULL;
	put_line(0, first ? first : "");
	put_line(1, second ? second : "");
	draw_sums(2, rows);
}

static void draw_help(void)
{
	static const char *const lines[] = {
		"left, right    column to sort by",
		"R W F L U G P  sort by read, write, flush, latency of writes, unique, growth, path",
		"r              other direction",
		"o              only clones that were active in the last interval",
		"a              sums since the start of the view instead of rates",
		"up, down, page up, page down, home   scroll",
		"+ -            longer, shorter interval",
		"p              pause            space  look now",
		"q              quit             h ?    this text",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines) && (int)i + 4 < LINES; i++)
		mvaddnstr((int)i + 4, 2, lines[i], COLS - 2);
}

static void draw_rows(struct screen *s, json_t *rows)
{
	bool shown[COLUMNS];
	int taken = choose_columns(s, shown), room = LINES - 5;
	json_t *sorted = view_sorted(
		view_column(top_columns, key_of(s, s->sort)), s->direction, rows);
	size_t count = json_array_size(sorted);

	if (room < 0)
		room = 0;
	if (s->scroll + (size_t)room > count)
		s->scroll = count > (size_t)room ? count - (size_t)room : 0;
	draw_headings(s, 3, shown);
	for (int i = 0; i < room && s->scroll + (size_t)i < count; i++)
		draw_row(s, 4 + i, taken, shown, json_array_get(sorted, s->scroll + (size_t)i));
	json_decref(sorted);
}

static void draw(struct screen *s)
{
	json_t *rows = top_rows(s->top, s->filter);

	measure_paths(s, rows);
	erase();
	draw_head(s, rows);
	if (s->help)
		draw_help();
	else
		draw_rows(s, rows);
	put_line(LINES - 1,
		"q quit  <> sort  r reverse  o active  a since start  p pause  +- interval  h help");
	refresh();
	json_decref(rows);
}

/* ---- keys and signals ---- */

static void sort_by(struct screen *s, const char *key)
{
	for (int i = 0; i < COLUMNS; i++)
		if (strcmp(screen_columns[i].now, key) == 0)
			s->sort = i;
	s->direction = s->sort == COLUMNS - 1 ? 1 : -1;
}

/* To the next column that is shown. */
static void move_sort(struct screen *s, int step)
{
	bool shown[COLUMNS];
	int next = s->sort + step;

	choose_columns(s, shown);
	while (next >= 0 && next < COLUMNS && !shown[next])
		next += step;
	if (next >= 0 && next < COLUMNS)
		sort_by(s, screen_columns[next].now);
}

static void change_delay(struct screen *s, int step)
{
	double wanted = s->delay;

	for (size_t i = 0; i < ARRAY_SIZE(delays) && step > 0 && wanted == s->delay; i++)
		if (delays[i] > s->delay)
			wanted = delays[i];
	for (size_t i = ARRAY_SIZE(delays); i-- > 0 && step < 0 && wanted == s->delay;)
		if (delays[i] < s->delay)
			wanted = delays[i];
	s->delay = wanted;
	s->next_ns = s->asked_ns + (int64_t)(s->delay * 1e9);
}

static void scroll_by(struct screen *s, int rows)
{
	s->scroll = rows < 0 && s->scroll < (size_t)-rows ? 0 : s->scroll + (size_t)rows;
}

static bool sort_key(struct screen *s, int key)
{
	static const struct {
		int key;
		const char *column;
	} letters[] = {
		{'R', "read_bytes_per_second"}, {'W', "write_bytes_per_second"},
		{'F', "flush_ops_per_second"}, {'L', "write_latency_ns"}, {'U', "unique_bytes"},
		{'G', "unique_bytes_per_second"}, {'P', "path"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(letters); i++) {
		if (letters[i].key != key)
			continue;
		sort_by(s, letters[i].column);
		return true;
	}
	return false;
}

static void handle_key(struct screen *s, int key)
{
	if (sort_key(s, key))
		return;
	switch (key) {
	case 'q':
	case 'Q':
		s->quit = true;
		break;
	case KEY_LEFT:
	case '<':
		move_sort(s, -1);
		break;
	case KEY_RIGHT:
	case '>':
		move_sort(s, 1);
		break;
	case 'r':
		s->direction = -s->direction;
		break;
	case 'o':
		s->filter = s->filter == TOP_ACTIVE ? s->wide_filter : TOP_ACTIVE;
		break;
	case 'a':
		s->since_start = !s->since_start;
		break;
	case 'p':
		s->paused = !s->paused;
		s->next_ns = 0;
		break;
	case ' ':
		s->next_ns = 0;
		break;
	case '+':
		change_delay(s, 1);
		break;
	case '-':
		change_delay(s, -1);
		break;
	case KEY_UP:
		scroll_by(s, -1);
		break;
	case KEY_DOWN:
		scroll_by(s, 1);
		break;
	case KEY_PPAGE:
		scroll_by(s, 5 - LINES);
		break;
	case KEY_NPAGE:
		scroll_by(s, LINES - 5);
		break;
	case KEY_HOME:
		s->scroll = 0;
		break;
	case 'h':
	case '?':
		s->help = !s->help;
		break;
	}
}

static void handle_signal(struct screen *s, int fd)
{
	struct signalfd_siginfo info;
	struct winsize size;

	if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	if (info.ssi_signo == SIGWINCH) {
		if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row && size.ws_col)
			resizeterm(size.ws_row, size.ws_col);
		clearok(curscr, TRUE);
		return;
	}
	s->quit = true;
	/* The usual way to leave what runs for ever. */
	if (info.ssi_signo != SIGINT)
		s->ended_by = (int)info.ssi_signo;
}

/* ---- the loop ---- */

/* Milliseconds until something is to be done that nobody wakes us for. */
static int patience(const struct screen *s)
{
	int64_t left_ns = s->next_ns - times_now(CLOCK_MONOTONIC);

	if (s->asking || s->paused)
		return 1000;
	return left_ns > 0 ? (int)(left_ns / 1000000) + 1 : 0;
}

/* Until it is left. Returns the answer that ended it, NULL: something else did. */
static struct answer *run(struct screen *s, int signals)
{
	struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {s->asker.answer[0], POLLIN, 0},
		{signals, POLLIN, 0}};
	struct answer *last = NULL;
	int key;

	while (!s->quit && !last) {
		if (!s->asking && !s->paused && times_now(CLOCK_MONOTONIC) >= s->next_ns)
			ask(s);
		if (poll(fds, ARRAY_SIZE(fds), patience(s)) < 0 && errno != EINTR)
			break;
		if (fds[2].revents)
			handle_signal(s, signals);
		if (fds[1].revents & POLLIN)
			last = take_answer(s);
		while (!s->quit && (key = getch()) != ERR)
			handle_key(s, key);
		if (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
			s->quit = true; /* the terminal is gone */
		if (!s->quit && !last)
			draw(s);
	}
	return last;
}

static int open_signals(sigset_t *old)
{
	static const int wanted[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		sigaddset(&set, wanted[i]);
	/* Before there is another thread, so that it takes none of them. */
	pthread_sigmask(SIG_BLOCK, &set, old);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool open_terminal(SCREEN **terminal)
{
	cli_use_locale();
	*terminal = newterm(NULL, stdout, stdin);
	if (!*terminal)
		return false;
	set_term(*terminal);
	cbreak();
	noecho();
	nonl();
	curs_set(0);
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	set_escdelay(50);
	return true;
}

static int say_why(const struct screen *s, struct answer *last)
{
	int r = EXIT_DONE;

	if (last && last->err == 0 && client_is_done(last->reply))
		r = cli_fail("out of memory");
	else if (last)
		r = top_lost(s->mountpoint, last->err, last->reply);
	if (last)
		json_decref(last->reply);
	free(last);
	return r;
}

/* The thread may still wait for the mount, and curses keeps what it has: the process just ends. */
static void __attribute__((noreturn)) leave(int status)
{
	fflush(NULL);
	_exit(status);
}

static struct answer *run_on_terminal(struct screen *s, int signals)
{
	struct answer *last;
	SCREEN *terminal;

	if (!open_terminal(&terminal)) {
		const char *term = getenv("TERM");

		leave(cli_fail("the terminal \"%s\" is not known, use goldfs top --batch",
			term ? term : ""));
	}
	last = run(s, signals);
	endwin();
	delscreen(terminal);
	return last;
}

int top_screen(const struct top_options *options)
{
	struct screen s = {
		.top = top_new(options->mountpoint),
		.mountpoint = options->mountpoint,
		.delay = options->delay,
		.filter = options->filter,
		.wide_filter = options->filter == TOP_ACTIVE ? TOP_USED : options->filter,
	};
	struct answer *last;
	sigset_t old;
	int signals, r;

	if (!s.top)
		return cli_fail("out of memory");
	sort_by(&s, options->sort ? options->sort->key : "write_bytes_per_second");
	if (options->sort)
		s.direction = options->direction;
	signals = open_signals(&old);
	r = signals < 0 ? -errno : asker_start(&s.asker, options->mountpoint);
	if (r < 0)
		leave(cli_fail("cannot start: %s", cli_reason(-r)));
	last = run_on_terminal(&s, signals);
	if (s.ended_by) {
		signal(s.ended_by, SIG_DFL);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		raise(s.ended_by);
	}
	leave(say_why(&s, last));
}
