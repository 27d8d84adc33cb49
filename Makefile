# SPDX-License-Identifier: MIT
# goldfs. `make list` shows the targets; README.md says what they are for.

CC ?= cc
PREFIX ?= /usr/local
PKGS = fuse3 libxxhash jansson smartcols
BUILD ?= build

CFLAGS ?= -O2 -g
WARN = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
	-Wno-unused-parameter
override CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 -Isrc -Iinclude \
	-DGOLDFS_VERSION='"$(VERSION)"' $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
override CFLAGS += -std=gnu11 $(WARN) -fno-strict-aliasing -pthread
LDLIBS += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -pthread
VERSION := 0.1.0

ifeq ($(DEVELOPER),1)
override CFLAGS += -Werror
endif
ifneq ($(SANITIZE),)
override CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -O1 -g
override LDFLAGS += -fsanitize=$(SANITIZE)
OBJ = $(BUILD)/obj-$(subst $(comma),-,$(SANITIZE))
BIN = $(BUILD)/$(subst $(comma),-,$(SANITIZE))
else
OBJ = $(BUILD)/obj
BIN = $(BUILD)
endif
comma := ,

LIB_DIRS = base image store core service fuse daemon cli
LIB_SRCS = $(sort $(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c)))
MAIN_SRC = src/cli/main.c
LIB_OBJS = $(patsubst %.c,$(OBJ)/%.o,$(filter-out $(MAIN_SRC),$(LIB_SRCS)))
MAIN_OBJ = $(patsubst %.c,$(OBJ)/%.o,$(MAIN_SRC))

## all: build the goldfs binary
all: $(BIN)/goldfs

$(BIN)/goldfs: $(MAIN_OBJ) $(LIB_OBJS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

## list: show the targets
list:
	@sed -n 's/^## //p' Makefile

## clean: remove what was built
clean:
	rm -rf $(BUILD)/obj* $(BUILD)/goldfs

.PHONY: all list clean
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
