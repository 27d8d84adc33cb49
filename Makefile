# SPDX-License-Identifier: MIT
#
# goldfs. `make list` shows the targets; README.md says what they are for.
#
# Variables, all on the command line or in the environment:
#   CC=clang CFLAGS=… LDFLAGS=…   as usual; a change rebuilds what it concerns
#   BUILD=folder                  where everything that is made goes
#   DEVELOPER=1                   a warning is an error, and invariants are asserted
#   SANITIZE=address,undefined    instrumented, in a folder of its own below BUILD; asserts too
#   DESTDIR= PREFIX= SBINDIR=     for install and uninstall
#   CI=true                       a test that is skipped counts as failed
#   STATIC="lib …"                libraries to link in instead of loading them, see below
#   V=1                           print whole commands
#   FUZZ_SECONDS=30               how long make fuzz runs each harness
#   SIZE= TIME= ROUNDS= CASES= PEERS= …   for bench, see tests/bench/bench
#   TESTS="word …"                only tests whose path contains one of the words
#   IMAGES=folder MOUNT=folder    for demo and demo-stop

VERSION := 0.1.0
PREFIX ?= /usr/local
# mount(8) looks for its helpers in /sbin only, whatever PREFIX is.
SBINDIR ?= /sbin
BUILD ?= build
CFLAGS ?= -O2 -g

comma := ,
quiet = $(if $(V),,@echo '  $(1)' '$@';)
flavour := $(subst $(comma),-,$(SANITIZE))
OBJ := $(BUILD)/obj$(if $(flavour),-$(flavour))
BIN := $(BUILD)$(if $(flavour),/$(flavour))

# Nothing here may fail without pkg-config: `make deps` is what installs it.
PKGS := fuse3 libxxhash jansson smartcols libseccomp libcap-ng ncursesw
pkg_cflags := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
pkg_libs := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

# Loading libraries is half of what a short command costs. So goldfs has in it what most commands do not
# need, where the archives are installed and need nothing else; STATIC= for none.
STATIC ?= fuse3 seccomp cap-ng ncursesw tinfo jansson
static := $(filter $(STATIC:%=-l%),$(pkg_libs))
static_libs := $(static:-l%=-l:lib%.a)
ifneq ($(shell echo 'int main(void) { return 0; }' | $(CC) -x c -o /dev/null - -Wl,--whole-archive \
	$(static_libs) -Wl,--no-whole-archive -pthread -ldl 2>/dev/null && echo whole),whole)
static_libs := $(static)
endif
goldfs_libs = $(static_libs) $(filter-out $(static),$(all_libs)) -ldl

warnings := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
	-Wno-unused-parameter
all_cppflags = -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 -Isrc -Iinclude \
	-DGOLDFS_VERSION='"$(VERSION)"' $(pkg_cflags) $(CPPFLAGS)
all_cflags = -std=gnu11 $(warnings) -fno-strict-aliasing -pthread $(CFLAGS)
all_ldflags = $(LDFLAGS)
all_libs = $(pkg_libs) -pthread $(LDLIBS)

ifeq ($(DEVELOPER),1)
all_cflags += -Werror
endif
# Invariants are asserted (src/base/invariant.h), but in what people install.
ifneq ($(filter 1,$(DEVELOPER))$(SANITIZE),)
all_cppflags += -DGF_INVARIANTS
endif
ifneq ($(SANITIZE),)
all_cppflags += -DGOLDFS_SANITIZED
all_cflags += -fsanitize=$(SANITIZE) -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1
all_ldflags += -fsanitize=$(SANITIZE)
endif

lib_dirs := base image store core service fuse daemon cli
main_src := src/cli/main.c
main_obj := $(OBJ)/src/cli/main.o
lib_srcs = $(filter-out $(main_src),$(sort $(foreach dir,$(lib_dirs),$(wildcard src/$(dir)/*.c))))
lib_objs = $(lib_srcs:%.c=$(OBJ)/%.o)

# A unit test is a program: test_NAME.c, with what is not named so shared by all. A crash test is
# the same with helpers of its own. Tools of mounted tests stand alone.
unit_tests := $(sort $(wildcard tests/unit/test_*.c))
unit_helpers := $(filter-out $(unit_tests),$(wildcard tests/unit/*.c))
crash_tests := $(sort $(wildcard tests/crash/test_*.c))
crash_helpers := $(filter-out $(crash_tests),$(wildcard tests/crash/*.c))
corrupt_tests := tests/corrupt/test_corrupt.c
corrupt_helpers := $(filter-out $(corrupt_tests),$(wildcard tests/corrupt/*.c))
mount_tests := $(filter-out %lib.sh,$(sort $(wildcard tests/mount/*.sh)))
mount_tools := $(sort $(wildcard tests/mount/*.c))
fuzz_tests := $(sort $(wildcard tests/fuzz/fuzz_*.c))
# Harnesses use the crash tests' disk in memory. main.c takes libFuzzer's place.
fuzz_helpers := $(filter-out $(fuzz_tests) tests/fuzz/main.c tests/fuzz/seeds.c,\
	$(wildcard tests/fuzz/*.c)) $(wildcard tests/crash/simdisk*.c) tests/crash/pagemap.c
bench_tools := $(sort $(wildcard tests/bench/*.c))
boot_tests := $(sort $(wildcard tests/boot/test_*.sh))

unit_bins := $(unit_tests:%.c=$(BIN)/%)
crash_bins := $(crash_tests:%.c=$(BIN)/%)
fuzz_bins := $(fuzz_tests:%.c=$(BIN)/%)
fuzzers := $(fuzz_tests:tests/fuzz/%.c=$(BIN)/fuzz/%)
corrupt_bins := $(corrupt_tests:%.c=$(BIN)/%)
tool_bins := $(mount_tools:%.c=$(BIN)/%)
bench_bins := $(bench_tools:%.c=$(BIN)/%)
only = $(if $(TESTS),$(foreach test,$(1),$(if $(strip $(foreach word,$(TESTS),\
	$(findstring $(word),$(test)))),$(test))),$(1))

# Where the Debian image of the boot tests and the demo is kept.
export BOOT_CACHE := $(abspath $(BUILD))/boot-cache

# A make that was not told -j builds on all processors below the targets that install first.
jobs = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 1))

## all: build the goldfs binary
all: $(BIN)/goldfs

$(BIN)/goldfs: $(main_obj) $(lib_objs) $(OBJ)/flags
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $(filter %.o,$^) $(goldfs_libs)

$(OBJ)/%.o: %.c $(OBJ)/flags
	@mkdir -p $(@D)
	$(call quiet,CC  )$(CC) $(all_cppflags) $(all_cflags) -MMD -MP -c -o $@ $<

# Tests take from it what they name, and may call their own functions as they like.
$(OBJ)/goldfs.a: $(lib_objs)
	@rm -f $@
	$(call quiet,AR  )$(AR) rcs $@ $^

$(unit_bins): $(BIN)/%: $(OBJ)/%.o $(unit_helpers:%.c=$(OBJ)/%.o) $(OBJ)/goldfs.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ $(all_libs) -lcmocka

$(crash_bins): $(BIN)/%: $(OBJ)/%.o $(crash_helpers:%.c=$(OBJ)/%.o) $(OBJ)/goldfs.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $(filter %.o,$^) \
		$(call archive,$(filter %.a,$^)) $(all_libs) -lcmocka

$(fuzz_bins): $(BIN)/%: $(OBJ)/%.o $(OBJ)/tests/fuzz/main.o $(fuzz_helpers:%.c=$(OBJ)/%.o) \
		$(OBJ)/goldfs.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ $(all_libs)

$(fuzzers): $(BIN)/fuzz/%: $(OBJ)/tests/fuzz/%.o $(fuzz_helpers:%.c=$(OBJ)/%.o) $(OBJ)/goldfs.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -fsanitize=fuzzer -o $@ $^ $(all_libs)

$(BIN)/tests/fuzz/seeds: $(OBJ)/tests/fuzz/seeds.o $(fuzz_helpers:%.c=$(OBJ)/%.o) $(OBJ)/goldfs.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ $(all_libs)

$(corrupt_bins): $(BIN)/%: $(OBJ)/%.o $(corrupt_helpers:%.c=$(OBJ)/%.o) $(OBJ)/goldfs.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ $(all_libs)

$(tool_bins): $(BIN)/%: $(OBJ)/%.o
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ -pthread

$(BIN)/tests/bench/dedup/dedup: $(OBJ)/tests/bench/dedup/dedup.o $(OBJ)/goldfs.a
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ $(all_libs)

$(bench_bins): $(BIN)/%: $(OBJ)/%.o
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ $(all_libs)

# The list of mutations is to have those of parts that a program does not name, too.
archive = $(if $(findstring GF_MUTATIONS,$(CPPFLAGS)),-Wl$(comma)--whole-archive $(1) \
	-Wl$(comma)--no-whole-archive,$(1))

# What the compiler is called with; only a change touches the file, which rebuilds the objects.
$(OBJ)/flags: force
	@pkg-config --exists $(PKGS) || { \
		echo "make: something to build with is missing: type 'make deps' as root" >&2; exit 1; }
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(CC) $(all_cppflags) $(all_cflags) $(all_ldflags) $(goldfs_libs))' >$@.new
	@if cmp -s $@.new $@; then rm -f $@.new; else mv -f $@.new $@; fi

## check: all tests, after installing what they need
check:
	@tests/deps check
	@$(MAKE) --no-print-directory $(jobs) test-programs
	@tests/run $(BIN)/goldfs $(call only,tests/check-layers tests/check-sites $(boot_tests) $(unit_bins) \
		$(fuzz_bins) $(crash_bins) $(corrupt_bins) $(mount_tests))

test-programs: all $(unit_bins) $(fuzz_bins) $(crash_bins) $(corrupt_bins) $(tool_bins) $(bench_bins)

unit-programs: all $(unit_bins) $(fuzz_bins)

## check-unit: tests of single parts
check-unit: $(call only,$(unit_bins))
	@tests/run $(BIN)/goldfs $^

## check-fuzz: inputs that were found once, without libFuzzer
check-fuzz: $(call only,$(fuzz_bins))
	@tests/run $(BIN)/goldfs $^

FUZZ_SECONDS ?= 30
fuzz_flavour = fuzzer-no-link,address,undefined

## fuzz: hostile input for FUZZ_SECONDS each (clang)
fuzz:
	@$(MAKE) --no-print-directory $(jobs) CC=clang SANITIZE=$(fuzz_flavour) fuzzers >/dev/null
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run $(BUILD) $(foreach test,$(call only,$(fuzz_tests)),\
		$(BUILD)/$(subst $(comma),-,$(fuzz_flavour))/fuzz/$(notdir $(basename $(test))))

fuzzers: $(call only,$(fuzzers))

## fuzz-seeds: write the seeds in tests/fuzz/corpus anew
fuzz-seeds: $(BIN)/tests/fuzz/seeds
	$< tests/fuzz/corpus

## check-crash: the store on a simulated disk that loses power
check-crash: $(call only,$(crash_bins))
	@tests/run $(BIN)/goldfs $^

## check-corruption: thousands of stores with a wrong bit or block each; BITS=, BLOCKS=, SEED=
check-corruption: $(corrupt_bins)
	@BITS=$${BITS:-10000} BLOCKS=$${BLOCKS:-1000} $(BIN)/tests/corrupt/test_corrupt

## check-crash-long: the same with 200,000 states or STATES=n, all workloads in a table
check-crash-long: $(BIN)/tests/crash/test_crash
	STATES=$(or $(STATES),200000) $<

## check-ledger: the accounting, to the byte, over 50 seeds of 10,000 operations; SEEDS=, OPS=, SEED=
check-ledger: $(BIN)/tests/crash/test_ledger
	SEEDS=$(or $(SEEDS),50) OPS=$(or $(OPS),10000) JOBS=$(or $(JOBS),$(shell nproc)) $<

## check-life: snapshots, rollbacks, clones of anything and refreshes against model and ledger, over
##	100 seeds of 2,000 operations; SEEDS=, OPS=, SEED=
check-life: $(BIN)/tests/crash/test_ledger
	SEEDS=$(or $(SEEDS),100) OPS=$(or $(OPS),2000) JOBS=$(or $(JOBS),$(shell nproc)) $< --mix life

.PHONY: check-crash-long check-life check-ledger check-mutations mutation-programs

# Tests in a build in which each sync, and each place that upholds an invariant, can be broken.
mutation_tests := superblock catalog_file journal layer chain image pin pin_order publish figures \
	content_index pool
mutation_crash := crash threads faults limits restart repair meetings steps shared domains recast
mutation_make = $(MAKE) --no-print-directory BUILD=$(BUILD)/mutations SANITIZE= \
	lib_dirs='base image store core' CPPFLAGS='$(CPPFLAGS) -DGF_MUTATIONS'
mutation_bins = $(filter $(mutation_tests:%=$(BIN)/tests/unit/test_%),$(unit_bins)) \
	$(filter $(mutation_crash:%=$(BIN)/tests/crash/test_%),$(crash_bins))
mutation-programs: $(mutation_bins)

## check-mutations: break each sync and invariant in turn (UPDATE=1 remembers who noticed)
check-mutations:
	@tests/check-sites
	@$(mutation_make) $(jobs) mutation-programs
	@$(BUILD)/mutations/tests/crash/test_crash --mutations --hints tests/crash/mutations.list \
		$(if $(UPDATE),--update) $(if $(QUICK),--quick) $(if $(V),--verbose)

## check-mount: tests on a real mount
check-mount: all $(tool_bins)
	@tests/run $(BIN)/goldfs $(call only,$(mount_tests))

## check-asan: unit, fuzz, crash and mounted tests, with addresses and undefined behaviour checked
check-asan:
	@LIMIT_FACTOR=3 $(MAKE) --no-print-directory SANITIZE=address,undefined \
		check-unit check-fuzz check-crash check-mount

# test_crash has no threads: it would take an hour to say so.
## check-tsan: unit, crash and mounted tests, with data races and lock orders checked
check-tsan:
	@LIMIT_FACTOR=3 $(MAKE) --no-print-directory SANITIZE=thread check-unit check-mount
	@LIMIT_FACTOR=3 SECONDS=60 $(MAKE) --no-print-directory SANITIZE=thread TESTS=threads \
		check-crash

## check-boot: real guests on clones of a Debian image
check-boot: all
	@tests/run $(BIN)/goldfs $(call only,$(boot_tests))

## stress: kill the worker a hundred times under load (KILLS=, CLONES=, GUEST=no, SEED=)
stress: all $(tool_bins)
	@tests/stress/kills.sh $(BIN)/goldfs

## bench-depth: reading at depth 64 against depth 1 (build without DEVELOPER=1 to measure)
bench-depth: all
	@tests/bench/depth.sh $(BIN)/goldfs

.PHONY: bench-depth

## bench-dedup: what looking for content costs new data (INDEXED=, ROUNDS=, TAGS=, FOLDER=)
bench-dedup: $(BIN)/tests/bench/dedup/dedup
	@tests/bench/dedup.sh $<

.PHONY: bench-dedup

## bench: goldfs side by side with its peers; ROUNDS=, TIME=, CASES=, PEERS= … (tests/bench/bench)
bench:
	@tests/deps bench
	@$(MAKE) --no-print-directory $(jobs) bench-programs
	@tests/bench/bench $(BIN)/goldfs $(BIN)/tests/bench $(BIN)/bench

## bench-boot: record a Debian guest's boot and replay it on GUESTS=1000 clones
bench-boot:
	@tests/deps bench
	@$(MAKE) --no-print-directory $(jobs) bench-programs
	@tests/boot/make-image.sh $(BOOT_CACHE)
	@[ -s $(BOOT_CACHE)/boot.trace ] || tests/bench/record.py $(BIN)/tests/bench/floor $(BOOT_CACHE)
	@GUESTS=$(or $(GUESTS),1000) CASES='$(or $(CASES),sync32 write16 guests)' tests/bench/bench \
		$(BIN)/goldfs $(BIN)/tests/bench $(BIN)/bench

bench-programs: all $(bench_bins)

## check-layers: no include points upward
check-layers:
	@tests/check-layers

## demo: mount a golden image, clone it and show what the clones cost
demo:
	@tests/deps demo
	@$(MAKE) --no-print-directory $(jobs) all
	@tests/demo start $(BIN)/goldfs $(abspath $(BUILD)) '$(IMAGES)' '$(MOUNT)'

## demo-stop: unmount what demo mounted
demo-stop:
	@tests/demo stop $(BIN)/goldfs $(abspath $(BUILD)) '$(IMAGES)' '$(MOUNT)'

## deps: install what building and testing need (Debian packages, as root or with sudo)
deps:
	@tests/deps check

man_pages = $(wildcard man/*.[1-9])
bindir = $(DESTDIR)$(PREFIX)/bin
mandir = $(DESTDIR)$(PREFIX)/share/man
unitdir = $(DESTDIR)$(PREFIX)/lib/systemd/system
man_targets = $(foreach page,$(man_pages),$(mandir)/man$(subst .,,$(suffix $(page)))/$(notdir $(page)))

## install: to DESTDIR and PREFIX
install: all
	install -D -m 755 $(BIN)/goldfs $(bindir)/goldfs
	@mkdir -p $(DESTDIR)$(SBINDIR) $(unitdir)
	sed 's|:/usr/local/sbin:|:$(PREFIX)/bin&|' mount-helpers/mount.goldfs \
		>$(DESTDIR)$(SBINDIR)/mount.goldfs
	sed 's|/usr/local/bin|$(PREFIX)/bin|g' mount-helpers/goldfs@.service >$(unitdir)/goldfs@.service
	chmod 755 $(DESTDIR)$(SBINDIR)/mount.goldfs
	chmod 644 $(unitdir)/goldfs@.service
	$(foreach page,$(man_targets),install -D -m 644 man/$(notdir $(page)) $(page) &&) :

## uninstall: remove what install put there
uninstall:
	rm -f $(bindir)/goldfs $(DESTDIR)$(SBINDIR)/mount.goldfs $(unitdir)/goldfs@.service $(man_targets)

## list: show the targets
list:
	@sed -n 's/^## //p' Makefile

## clean: remove what was built; images that were downloaded or made stay
clean:
	rm -rf $(BUILD)/obj* $(BUILD)/goldfs $(BUILD)/tests $(if $(flavour),$(BIN))

.PHONY: all bench bench-boot bench-programs check test-programs unit-programs check-unit check-fuzz check-crash check-mount check-asan \
	check-tsan check-boot check-layers fuzz fuzzers fuzz-seeds demo demo-stop deps install \
	uninstall list clean force check-corruption
.DELETE_ON_ERROR:
.SECONDARY:

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)
