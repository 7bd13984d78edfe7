/* A compiled program in a file, for the next create.
 *
 * The file says what it was made from and by which driver, and carries a checksum: some drivers crash on a binary that
 * is damaged or not theirs. Whatever does not fit is as good as absent. It appears whole, by renaming.
 */
#ifndef BITLOOM_OPENCL_CACHE_H
#define BITLOOM_OPENCL_CACHE_H

#include "bitloom_system.h"

#include <stddef.h>
#include <stdint.h>

enum { BL_CACHE_PATH = 1024, BL_CACHE_KEY = 2048 };

struct bl_cache_head {
    char magic[8];
    uint64_t key_bytes, binary_bytes, checksum; /* of key and binary */
};

struct bl_cache {
    char path[BL_CACHE_PATH]; /* empty: none */
    char key[BL_CACHE_KEY];
};

static inline uint64_t bl_hash(uint64_t hash, const void *memory, size_t bytes)
{
    const unsigned char *byte = memory;

    for (size_t i = 0; i < bytes; i++) /* FNV-1a */
        hash = (hash ^ byte[i]) * 0x100000001B3u;
    return hash;
}

#define BL_HASH_START 0xCBF29CE484222325u

static inline uint64_t bl_cache_checksum(const struct bl_cache *cache, const void *binary, size_t bytes)
{
    return bl_hash(bl_hash(BL_HASH_START, cache->key, strlen(cache->key)), binary, bytes);
}

static inline int bl_read_all(int file, void *memory, size_t bytes)
{
    unsigned char *to = memory;

    while (bytes > 0) {
        ssize_t got = read(file, to, bytes);
        if (got <= 0)
            return 0;
        to += got;
        bytes -= (size_t)got;
    }
    return 1;
}

static inline int bl_write_all(int file, const void *memory, size_t bytes)
{
    const unsigned char *from = memory;

    while (bytes > 0) {
        ssize_t put = write(file, from, bytes);
        if (put <= 0)
            return 0;
        from += put;
        bytes -= (size_t)put;
    }
    return 1;
}

/* Folder: the caller's, or "" for none; NULL for $BITLOOM_OPENCL_CACHE, else the user's own. */
static inline void bl_cache_place(struct bl_cache *cache, const char *folder, const char *name)
{
    char place[BL_CACHE_PATH - 128];
    const char *home;
    int length;
    uint64_t hash = bl_hash(BL_HASH_START, cache->key, strlen(cache->key));

    cache->path[0] = 0;
    if (!folder)
        folder = getenv("BITLOOM_OPENCL_CACHE");
    if (folder)
        length = snprintf(place, sizeof place, "%s", folder);
    else if ((home = getenv("XDG_CACHE_HOME")) && home[0])
        length = snprintf(place, sizeof place, "%s/bitloom-opencl", home);
    else if ((home = getenv("HOME")) && home[0])
        length = snprintf(place, sizeof place, "%s/.cache/bitloom-opencl", home);
    else
        return;
    if (length <= 0 || (size_t)length >= sizeof place)
        return;
    mkdir(place, 0700); /* there already, or the write will fail */
    snprintf(cache->path, sizeof cache->path, "%s/%.60s-%016llx.bin", place, name, (unsigned long long)hash);
}

/* The binary and its size, to be freed; NULL where there is none that fits. */
static inline void *bl_cache_read(const struct bl_cache *cache, size_t *bytes)
{
    struct bl_cache_head head;
    char key[BL_CACHE_KEY];
    void *binary = NULL;
    int file = cache->path[0] ? open(cache->path, O_RDONLY | O_CLOEXEC) : -1;

    if (file < 0)
        return NULL;
    if (bl_read_all(file, &head, sizeof head) && memcmp(head.magic, "bitloom1", 8) == 0 &&
        head.key_bytes == strlen(cache->key) && head.binary_bytes > 0 && head.binary_bytes < (1u << 30) &&
        bl_read_all(file, key, (size_t)head.key_bytes) && memcmp(key, cache->key, (size_t)head.key_bytes) == 0) {
        binary = malloc((size_t)head.binary_bytes);
        if (binary && !(bl_read_all(file, binary, (size_t)head.binary_bytes) &&
                        bl_cache_checksum(cache, binary, (size_t)head.binary_bytes) == head.checksum)) {
            free(binary);
            binary = NULL;
        }
    }
    close(file);
    *bytes = binary ? (size_t)head.binary_bytes : 0;
    return binary;
}

/* No more than a try: without the file, the next create compiles again. */
static inline void bl_cache_write(const struct bl_cache *cache, const void *binary, size_t bytes)
{
    struct bl_cache_head head = {{'b', 'i', 't', 'l', 'o', 'o', 'm', '1'}, strlen(cache->key), bytes, 0};
    char partial[BL_CACHE_PATH + 64];
    int file, whole;

    if (!cache->path[0])
        return;
    /* The address tells apart two threads that create at once. */
    snprintf(partial, sizeof partial, "%s.%ld.%llx", cache->path, (long)getpid(),
             (unsigned long long)(uintptr_t)cache);
    file = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return;
    head.checksum = bl_cache_checksum(cache, binary, bytes);
    whole = bl_write_all(file, &head, sizeof head) && bl_write_all(file, cache->key, strlen(cache->key)) &&
            bl_write_all(file, binary, bytes);
    whole = close(file) == 0 && whole;
    if (!whole || rename(partial, cache->path) != 0)
        unlink(partial);
}

#endif
