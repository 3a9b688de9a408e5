/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A formatting that is killed on the way. The body of the slot Format runs in a child under ptrace(2), which lets its
 * real mkfs make a given number of writes and then kills both: every state that a crash can leave is reached, each
 * time alike. Then the request is repeated. Also intents that must not be followed, and a mkfs that outlives its
 * mounter. As root, on real loop devices.
 */

#include <criterion/criterion.h>

#include <limits.h>
#include <linux/fs.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/strmap.h"
#include "block-volume.h"
#include "mounters/block/internal.h"

#define MIB (1024ULL * 1024)

static Fixture fixture;

static void suite_init(void)
{
        fixture_init(&fixture);
}

static void suite_done(void)
{
        fixture_done(&fixture);
}

TestSuite(format_interrupted, .init = suite_init, .fini = suite_done, .timeout = 400);

/* --- a mounter and its mkfs under ptrace --- */

typedef struct Trace {
        pid_t mounter;
        pid_t mkfs;      /* 0 before its exec */
        unsigned writes; /* that mkfs has begun */
} Trace;

/* Where a trace stops: mkfs at the door of its write number `writes`, or at its end. */
typedef enum TraceEnd {
        TRACE_AT_WRITE,
        TRACE_AT_EXIT,
} TraceEnd;

#define TRACE_OPTIONS                                                                                        \
        (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |            \
         PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)

static void trace_start(Trace *t, BlockVolume *v)
{
        int status;

        *t = (Trace) {};
        fflush(NULL);
        t->mounter = fork();
        cr_assert(t->mounter >= 0);
        if (t->mounter == 0) {
                MounterResult r = {};
                Error err = ERROR_INIT;

                if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
                        _exit(100);
                raise(SIGSTOP);
                if (block_format(&v->mounter, &v->volume, &v->storage, &r, &err) >= 0)
                        _exit(0);
                fprintf(stderr, "# %s: %s\n", error_code_name(err.code), str_or(err.text, ""));
                _exit(101);
        }
        cr_assert_eq(waitpid(t->mounter, &status, 0), t->mounter);
        cr_assert(WIFSTOPPED(status), "the child cannot be traced");
        cr_assert_eq(ptrace(PTRACE_SETOPTIONS, t->mounter, NULL, TRACE_OPTIONS), 0);
        cr_assert_eq(ptrace(PTRACE_CONT, t->mounter, NULL, NULL), 0);
}

static bool syscall_writes(const struct __ptrace_syscall_info *info)
{
        if (info->op != PTRACE_SYSCALL_INFO_ENTRY)
                return false;
        switch (info->entry.nr) {
        case SYS_write:
        case SYS_writev:
                return info->entry.args[0] > 2;
        case SYS_pwrite64:
        case SYS_pwritev:
        case SYS_fallocate:
        case SYS_fsync:
        case SYS_fdatasync:
                return true;
        case SYS_ioctl:
                return (uint32_t) info->entry.args[1] == BLKZEROOUT || (uint32_t) info->entry.args[1] == BLKDISCARD;
        default:
                return false;
        }
}

/* Lets everything run until mkfs is about to make its write number n (from 0), or to exit; it is left stopped there. */
static TraceEnd trace_until_write(Trace *t, unsigned n)
{
        for (;;) {
                struct __ptrace_syscall_info info;
                int status, deliver = 0;
                pid_t pid = waitpid(-1, &status, __WALL);

                cr_assert(pid > 0, "nothing left to trace: %s", strerror(errno));
                if (WIFEXITED(status) || WIFSIGNALED(status)) {
                        cr_assert_neq(pid, t->mounter, "the mounter ended (status %d) and its mkfs was not seen to",
                                      status);
                        continue;
                }
                if (pid != t->mounter && status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8)))
                        t->mkfs = pid;
                if (pid == t->mkfs && WSTOPSIG(status) == (SIGTRAP | 0x80)) {
                        cr_assert(ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *) sizeof(info), &info) > 0);
                        if (syscall_writes(&info) && t->writes++ == n)
                                return TRACE_AT_WRITE;
                        if (info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_exit_group)
                                return TRACE_AT_EXIT;
                } else if (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != (SIGTRAP | 0x80) &&
                           WSTOPSIG(status) != SIGSTOP)
                        deliver = WSTOPSIG(status);
                cr_assert(ptrace(t->mkfs > 0 && pid != t->mounter ? PTRACE_SYSCALL : PTRACE_CONT, pid, NULL, deliver) >= 0 ||
                          errno == ESRCH);
        }
}

/*
 * SIGKILL for both, and nothing of them left. A system call at whose door mkfs stands is not made any more. Any pid is
 * waited for, since a process whose threads are traced is gone only after each of them has been.
 */
static void trace_kill(Trace *t)
{
        bool mounter = true, mkfs = t->mkfs > 0;

        kill(t->mounter, SIGKILL);
        if (mkfs)
                kill(t->mkfs, SIGKILL);
        while (mounter || mkfs) {
                int status;
                pid_t pid = waitpid(-1, &status, __WALL);

                cr_assert(pid > 0, "%s", strerror(errno));
                if (!WIFEXITED(status) && !WIFSIGNALED(status))
                        continue;
                if (pid == t->mounter)
                        mounter = false;
                if (pid == t->mkfs)
                        mkfs = false;
        }
}

/* --- interrupted at many points --- */

static void check_file_system(const BlockVolume *t, const char *fs_type)
{
        if (strcmp(fs_type, "xfs") == 0)
                RUN_OK("xfs_repair", "-n", t->device);
        else if (strcmp(fs_type, "btrfs") == 0)
                RUN_OK("btrfs", "check", "--readonly", t->device);
        else
                RUN_OK("e2fsck", "-f", "-n", t->device);
}

/* mkfs is interrupted at write n; false if it makes no more than n. Then the repeat has to succeed. */
static bool interrupt_at(const char *fs_type, uint64_t size, unsigned n)
{
        BlockVolume t;
        Trace trace;
        _cleanup_intent_ FormatIntent intent = {};
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *path = NULL;

        block_volume_init(&t, &fixture, fixture_image(&fixture, fs_type, size), fs_type);
        path = strdup(t.image);
        trace_start(&trace, &t);
        TraceEnd end = trace_until_write(&trace, n);
        trace_kill(&trace);

        cr_assert_eq(intent_read(&t.mounter, &t.storage, &intent, &err), 1, "%s at write %u: no intent: %s", fs_type, n,
                     str_or(err.text, ""));
        cr_assert(!block_volume_has_memory(&t));
        {
                /* Whatever it looks like, it is not mounted now, neither read-write nor read-only. */
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                cr_assert_str_eq(str_or(a.result.next, ""), "format", "%s at write %u: %s", fs_type, n,
                                 str_or(a.error.text, "mounted"));
                t.volume.read_only = true;
                _cleanup_answer_ BlockAnswer b = block_volume_stage(&t);
                cr_assert_eq(b.error.code, ERROR_NOT_FORMATTED, "%s at write %u: %s", fs_type, n,
                             str_or(b.error.text, "mounted"));
                t.volume.read_only = false;
        }
        {
                _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
                cr_assert_eq(a.r, 0, "%s at write %u: %s: %s", fs_type, n, error_code_name(a.error.code), a.error.text);
                cr_assert_str_eq(a.result.uuid, intent.uuid);
        }
        cr_assert(!block_volume_has_intent(&t) && block_volume_has_memory(&t));
        check_file_system(&t, fs_type);
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
        cr_assert_eq(a.r, 0, "%s at write %u: %s", fs_type, n, a.error.text);
        cr_assert_null(a.result.next);
        block_volume_done(&t);
        cr_assert_eq(unlink(path), 0);
        return end == TRACE_AT_WRITE;
}

/* How many writes the mkfs makes. */
static unsigned count_writes(const char *fs_type, uint64_t size)
{
        BlockVolume t;
        Trace trace;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "count", size), fs_type);
        trace_start(&trace, &t);
        cr_assert_eq(trace_until_write(&trace, UINT_MAX), TRACE_AT_EXIT);
        trace_kill(&trace);
        _cleanup_free_ char *path = strdup(t.image);
        block_volume_done(&t);
        cr_assert_eq(unlink(path), 0);
        return trace.writes;
}

/* The first and last ten writes, the end, and points evenly between. */
static void interrupt_everywhere(const char *fs_type, uint64_t size, unsigned between)
{
        unsigned n = count_writes(fs_type, size), tried = 0, at_write = 0;

        cr_assert(n >= 5, "mkfs of %s made only %u writes", fs_type, n);
        for (unsigned i = 0; i < n; i++) {
                bool edge = i < 10 || i + 10 > n;
                if (!edge && n > 20 + between && i % (n / between) != 0)
                        continue;
                /* mkfs.btrfs' number of writes differs by a few from run to run: the last points may be past its end */
                at_write += interrupt_at(fs_type, size, i);
                tried++;
        }
        cr_assert(!interrupt_at(fs_type, size, UINT_MAX));
        tried++;
        fprintf(stderr, "# %s: interrupted at %u of %u writes, and %u times at the end\n", fs_type, at_write, n,
                tried - at_write);
        cr_assert(at_write >= (n < 20 ? n / 2 : 10));
}

Test(format_interrupted, ext4)
{
        interrupt_everywhere("ext4", 64 * MIB, 30);
}

Test(format_interrupted, ext3)
{
        interrupt_everywhere("ext3", 64 * MIB, 5);
}

Test(format_interrupted, xfs)
{
        interrupt_everywhere("xfs", 320 * MIB, 20);
}

Test(format_interrupted, btrfs)
{
        interrupt_everywhere("btrfs", 128 * MIB, 20);
}

/* --- intents that must not be followed --- */

/* An interrupted formatting of the volume: an intent, and a torso with bytes in it. */
static void leave_torso(BlockVolume *t, const char *fs_type, uint64_t size)
{
        Trace trace;

        block_volume_init(t, &fixture, fixture_image(&fixture, "torso", size), fs_type);
        trace_start(&trace, t);
        cr_assert_eq(trace_until_write(&trace, 8), TRACE_AT_WRITE);
        trace_kill(&trace);
        cr_assert(block_volume_has_intent(t));
}

static void expect_not_formatted(BlockVolume *t, ErrorCode code, const char *part)
{
        /* the checksum while nobody has the device's cache dirty */
        RUN_OK("blockdev", "--flushbufs", t->device);
        _cleanup_free_ char *before = file_checksum(t->image), *after = NULL;
        unsigned mkfs = t->progress_mkfs;

        _cleanup_answer_ BlockAnswer a = block_volume_format(t);
        cr_assert(a.r < 0, "it was formatted");
        cr_assert_eq(a.error.code, code, "%s: %s", error_code_name(a.error.code), a.error.text);
        cr_assert(strstr(a.error.text, part), "no '%s' in: %s", part, a.error.text);
        cr_assert_eq(t->progress_mkfs, mkfs);
        RUN_OK("blockdev", "--flushbufs", t->device);
        after = file_checksum(t->image);
        cr_assert_str_eq(before, after);
}

Test(format_interrupted, something_else_was_put_there)
{
        BlockVolume t;
        _cleanup_error_ Error err = ERROR_INIT;

        leave_torso(&t, "ext4", 64 * MIB);
        RUN_OK("mkfs.vfat", t.device);
        expect_not_formatted(&t, ERROR_NOT_BLANK, "vfat");
        RUN_OK("mkfs.xfs", "-q", "-f", "-d", "size=64m", "--unsupported", t.device);
        expect_not_formatted(&t, ERROR_NOT_BLANK, "xfs");
        RUN_OK("wipefs", "--quiet", "--all", t.device);
        RUN_OK("mke2fs", "-q", "-t", "ext4", t.device); /* the type fits, the UUID does not */
        expect_not_formatted(&t, ERROR_NOT_BLANK, "another ext4");
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                cr_assert_str_eq(str_or(a.result.next, ""), "format", "it was mounted");
        }
        /* what the text tells the operator to do */
        cr_assert_eq(block_forget(&t.mounter, &t.storage, &err), 0);
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
        cr_assert_eq(a.r, 0, "%s", a.error.text);
        cr_assert_null(a.result.next);
        block_volume_done(&t);
}

/* Somebody else's unfinished XFS has sb_inprogress set, too; -f would be used against it. */
Test(format_interrupted, unfinished_xfs_of_somebody_else)
{
        BlockVolume t;
        static const uint8_t one = 1;

        leave_torso(&t, "xfs", 320 * MIB);
        RUN_OK("mkfs.xfs", "-q", "-f", t.device);
        file_write_at(t.device, 126, &one, 1);
        expect_not_formatted(&t, ERROR_NOT_BLANK, "xfs");
        block_volume_done(&t);
}

Test(format_interrupted, other_type_or_size)
{
        BlockVolume t;

        leave_torso(&t, "ext4", 64 * MIB);
        str_replace(&t.volume.fs_type, "ext3");
        expect_not_formatted(&t, ERROR_NOT_BLANK, "is not blank");
        str_replace(&t.volume.fs_type, "ext4");
        block_volume_detach(&t);
        cr_assert_eq(truncate(t.image, (off_t) (128 * MIB)), 0);
        block_volume_attach(&t);
        expect_not_formatted(&t, ERROR_NOT_BLANK, "is not blank");
        block_volume_detach(&t);
        cr_assert_eq(truncate(t.image, (off_t) (64 * MIB)), 0);
        block_volume_attach(&t);
        _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
        cr_assert_eq(a.r, 0, "%s", a.error.text);
        block_volume_done(&t);
}

#define DIED 3

static void die_after_proof(BlockVolume *t)
{
        if (t->verifies == 2)
                _exit(DIED);
}

/* It died when the device was proved blank and mkfs had not begun: what others write there since is no torso of it. */
Test(format_interrupted, proved_blank_and_no_more)
{
        BlockVolume t;
        int status;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "proved", 64 * MIB), "ext4");
        t.on_verify = die_after_proof;
        fflush(NULL);
        pid_t pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                (void) block_volume_format(&t);
                _exit(0);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == DIED, "status 0x%x", (unsigned) status);
        t.on_verify = NULL;
        file_write_at(t.device, 5 * MIB, "data", 4);
        expect_not_formatted(&t, ERROR_NOT_BLANK, "is not blank");
        block_volume_done(&t);
}

/* Blank after all, and another type is wanted now: proved again, and the new intent takes the old one's place. */
Test(format_interrupted, other_type_on_a_blank_device)
{
        BlockVolume t;
        FormatIntent intent = { .fs_type = "ext4", .uuid = "00000000-1111-2222-3333-444444444444", .size = 64 * MIB };

        block_volume_init(&t, &fixture, fixture_image(&fixture, "blank", 64 * MIB), "ext3");
        cr_assert_eq(intent_write(&t.mounter, &t.storage, "test", &intent, NULL), 0);
        _cleanup_answer_ BlockAnswer a = block_volume_mount(&t);
        cr_assert_str_eq(a.result.fs_type, "ext3");
        cr_assert_str_neq(a.result.uuid, intent.uuid);
        block_volume_done(&t);
}

Test(format_interrupted, intents_that_cannot_be_trusted)
{
        BlockVolume t;
        _cleanup_free_ char *path = NULL;
        static const char *const contents[] = {
                "",
                "{",
                "[]",
                "{\"version\": 1}",
                "{\"version\": 2, \"id\": \"%s\", \"fsType\": \"ext4\", \"uuid\": \"00000000-1111-2222-3333-444444444444\", \"size\": 67108864}",
                "{\"version\": 1, \"id\": \"other\", \"fsType\": \"ext4\", \"uuid\": \"00000000-1111-2222-3333-444444444444\", \"size\": 67108864}",
                "{\"version\": 1, \"id\": \"%s\", \"id\": \"%s\", \"fsType\": \"ext4\", \"uuid\": \"00000000-1111-2222-3333-444444444444\", \"size\": 67108864}",
                "{\"version\": 1, \"id\": \"%s\", \"fsType\": \"vfat\", \"uuid\": \"00000000-1111-2222-3333-444444444444\", \"size\": 67108864}",
                "{\"version\": 1, \"id\": \"%s\", \"fsType\": \"ext4\", \"uuid\": \"\", \"size\": 67108864}",
                "{\"version\": 1, \"id\": \"%s\", \"fsType\": \"ext4\", \"uuid\": \"00000000-1111-2222-3333-444444444444\", \"size\": -1}",
        };

        block_volume_init(&t, &fixture, fixture_image(&fixture, "image", 64 * MIB), "ext4");
        file_write_at(t.image, 5 * MIB, "data", 4);
        path = block_volume_state_file(&t, "formats");
        cr_assert_eq(mkdir_parents(fixture.state_dir, 0700), 0);
        _cleanup_close_ int dir = state_directory_open(&t.mounter, "formats");
        cr_assert(dir >= 0);
        for (size_t i = 0; i < ELEMENTSOF(contents); i++) {
                char line[512] = "";
                const char *from = contents[i];

                for (const char *mark; (mark = strstr(from, "%s")); from = mark + 2) {
                        strncat(line, from, (size_t) (mark - from));
                        strncat(line, t.lasting_id, 100);
                }
                strncat(line, from, 300);
                write_text(path, line);
                expect_not_formatted(&t, ERROR_RECORD_FAILED, "formats/");
        }
        block_volume_done(&t);
}

/* mkfs had been completed and remembered, the intent alone was left: nothing is formatted again, not even zeros. */
Test(format_interrupted, zeros_after_it_was_finished)
{
        BlockVolume t;
        FormatIntent intent = { .fs_type = "ext4", .uuid = "00000000-1111-2222-3333-444444444444", .size = 64 * MIB };

        block_volume_init(&t, &fixture, fixture_image(&fixture, "zeros", 64 * MIB), "ext4");
        cr_assert_eq(intent_write(&t.mounter, &t.storage, "test", &intent, NULL), 0);
        cr_assert_eq(block_remember(&t.mounter, &t.storage, "test", "ext4", intent.uuid, intent.size, NULL), 0);
        expect_not_formatted(&t, ERROR_WAS_FORMATTED, intent.uuid);
        block_volume_done(&t);
}

/* --- mkfs outlives its mounter --- */

static bool device_is_unlocked(void *arg)
{
        return flock(*(int *) arg, LOCK_EX | LOCK_NB) == 0;
}

Test(format_interrupted, mkfs_outlives_a_killed_mounter)
{
        BlockVolume t;
        Trace trace;
        int status;
        _cleanup_intent_ FormatIntent intent = {};
        _cleanup_close_ int run_dir = -EBADF, lock = -EBADF, device = -EBADF;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "outlives", 64 * MIB), "ext4");
        run_dir = open(fixture.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert(run_dir >= 0);
        t.mounter.lock_fd = lock_file_take(run_dir, "lock");
        cr_assert(t.mounter.lock_fd >= 0);
        trace_start(&trace, &t);
        cr_assert_eq(trace_until_write(&trace, 3), TRACE_AT_WRITE);
        t.mounter.lock_fd = close_fd(t.mounter.lock_fd); /* ours: the mounter and mkfs have theirs */

        kill(trace.mounter, SIGKILL);
        cr_assert_eq(waitpid(trace.mounter, &status, __WALL), trace.mounter);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        cr_assert_eq(kill(trace.mkfs, 0), 0, "mkfs died with its mounter");

        device = open(t.device, O_RDONLY | O_CLOEXEC);
        cr_assert(device >= 0);
        cr_assert_eq(flock(device, LOCK_EX | LOCK_NB), -1, "the device is not locked while mkfs works on it");
        cr_assert_eq(lock_file_take(run_dir, "lock"), -EWOULDBLOCK, "the volume's lock went with the mounter");

        cr_assert_eq(ptrace(PTRACE_DETACH, trace.mkfs, NULL, NULL), 0); /* goes on by itself */
        wait_until(device_is_unlocked, &device, 60, "mkfs lets go of the device");
        lock = lock_file_take(run_dir, "lock");
        cr_assert(lock >= 0, "the volume's lock is still held: %d", lock);
        device = close_fd(device);

        cr_assert_eq(intent_read(&t.mounter, &t.storage, &intent, NULL), 1);
        _cleanup_answer_ BlockAnswer a = block_volume_mount(&t);
        cr_assert_str_eq(a.result.uuid, intent.uuid, "what the orphaned mkfs made was not kept");
        cr_assert_eq(t.progress_mkfs, 0, "mkfs ran a second time");
        block_volume_done(&t);
}

/* A process that holds the device's lock for good: the wait has an end, and nothing is done. */
Test(format_interrupted, lock_of_somebody_else)
{
        BlockVolume t;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "locked", 64 * MIB), "ext4");
        _cleanup_close_ int fd = open(t.device, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
        double start = now_seconds();
        _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
        cr_assert_eq(a.error.code, ERROR_BUSY, "%s", str_or(a.error.text, "formatted"));
        cr_assert(now_seconds() - start < 15, "it waited for %.1f s", now_seconds() - start);
        cr_assert_eq(t.progress_mkfs, 0);
        fd = close_fd(fd);
        block_volume_done(&t);
}
