/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Requests to the kernel's nbd driver by generic netlink, two small ones, so that a device can be let go when the program that serves it is
 * dead, stopped, or not installed any more. Runs in the rbd mounter; needs CAP_SYS_ADMIN, not CAP_NET_ADMIN.
 */

#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/cleanup.h"
#include "mounters/nbd-device.h"

#define ANSWER_SEC 10

typedef struct Request {
        _Alignas(struct nlmsghdr) char data[512];
        size_t size;
} Request;

static void request_init(Request *q, uint16_t family, uint8_t command)
{
        struct nlmsghdr *h = (struct nlmsghdr *) q->data;
        struct genlmsghdr *g = NLMSG_DATA(h);

        h->nlmsg_type = family;
        h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
        h->nlmsg_seq = 1;
        g->cmd = command;
        g->version = 1;
        q->size = NLMSG_LENGTH(GENL_HDRLEN);
}

static int request_add(Request *q, uint16_t type, const void *data, size_t size)
{
        struct nlattr *a = (struct nlattr *) (q->data + q->size);

        if (q->size + NLA_HDRLEN + NLA_ALIGN(size) > sizeof(q->data))
                return -EMSGSIZE;
        a->nla_type = type;
        a->nla_len = (uint16_t) (NLA_HDRLEN + size);
        memcpy((char *) a + NLA_HDRLEN, data, size);
        q->size += NLA_HDRLEN + NLA_ALIGN(size);
        return 0;
}

/* The ID of a family, from the answer to CTRL_CMD_GETFAMILY; 0 if it is not in it. */
static uint16_t family_parse(const struct nlmsghdr *h)
{
        const char *p = (const char *) NLMSG_DATA(h) + GENL_HDRLEN, *end = (const char *) h + h->nlmsg_len;
        uint16_t id = 0;

        while (end - p >= NLA_HDRLEN) {
                const struct nlattr *a = (const struct nlattr *) p;
                if (a->nla_len < NLA_HDRLEN || a->nla_len > end - p)
                        break;
                if (a->nla_type == CTRL_ATTR_FAMILY_ID && a->nla_len >= NLA_HDRLEN + sizeof(id))
                        memcpy(&id, p + NLA_HDRLEN, sizeof(id));
                p += NLA_ALIGN(a->nla_len);
        }
        return id;
}

/* Until the acknowledgement, which is the kernel's errno. */
static int request_send(int fd, Request *q, uint16_t *ret_family)
{
        static const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        _Alignas(struct nlmsghdr) char answer[8192];

        ((struct nlmsghdr *) q->data)->nlmsg_len = (uint32_t) q->size;
        if (sendto(fd, q->data, q->size, 0, (const struct sockaddr *) &kernel, sizeof(kernel)) < 0)
                return -errno;
        for (;;) {
                ssize_t n = recv(fd, answer, sizeof(answer), 0);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? -ETIMEDOUT : -errno;
                for (size_t at = 0, size = (size_t) n; at + sizeof(struct nlmsghdr) <= size;) {
                        const struct nlmsghdr *h = (const struct nlmsghdr *) (answer + at);
                        if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > size - at)
                                break;
                        at += NLMSG_ALIGN(h->nlmsg_len);
                        if (h->nlmsg_type == NLMSG_ERROR)
                                return ((const struct nlmsgerr *) NLMSG_DATA(h))->error;
                        if (h->nlmsg_type == GENL_ID_CTRL && ret_family)
                                *ret_family = family_parse(h);
                }
        }
}

static int netlink_open(uint16_t *ret_family)
{
        const struct timeval wait = { .tv_sec = ANSWER_SEC };
        _cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
        uint16_t family = 0;
        Request q = {};

        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0)
                return -errno;
        request_init(&q, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
        int r = request_add(&q, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
        if (r >= 0)
                r = request_send(fd, &q, &family);
        if (r < 0)
                return r;
        if (family == 0)
                return -ENODEV;
        *ret_family = family;
        return TAKE_FD(fd);
}

typedef struct Attribute {
        uint16_t type;
        const void *data;
        size_t size;
} Attribute;

static int device_request(uint8_t command, const Attribute *attributes, size_t n)
{
        uint16_t family = 0;
        _cleanup_close_ int fd = netlink_open(&family);
        Request q = {};
        int r = 0;

        if (fd < 0)
                return fd;
        request_init(&q, family, command);
        for (size_t i = 0; r >= 0 && i < n; i++)
                r = request_add(&q, attributes[i].type, attributes[i].data, attributes[i].size);
        return r < 0 ? r : request_send(fd, &q, NULL);
}

int nbd_disconnect(unsigned number)
{
        const uint32_t index = number;
        const Attribute attributes[] = { { NBD_ATTR_INDEX, &index, sizeof(index) } };

        return device_request(NBD_CMD_DISCONNECT, attributes, ELEMENTSOF(attributes));
}

int nbd_resize(unsigned number, const char *cookie, uint64_t size)
{
        const uint32_t index = number;
        const Attribute attributes[] = {
                { NBD_ATTR_INDEX, &index, sizeof(index) },
                { NBD_ATTR_SIZE_BYTES, &size, sizeof(size) },
                { NBD_ATTR_BACKEND_IDENTIFIER, cookie, strlen(cookie) + 1 },
        };

        return device_request(NBD_CMD_RECONFIGURE, attributes, ELEMENTSOF(attributes));
}
