/* Every fixed limit, with its reason.  What an administrator may want to change is a setting
 * instead (sql/seed.sql), with these as outer bounds. */
#pragma once

/* One limit a line, with its reason behind it. */
/* clang-format off */

/* tasks and threads */
#define TASK_STACK (256 * 1024) /* Lua's 200 nested C calls need up to 200 KB; untouched pages cost nothing */
#define TASK_POOL 32            /* stacks kept for reuse: the commands that are usually under way at once */
#define WORK_THREADS 2          /* password hashing and file access; more would fight with the workers for cores */

/* workers */
#define WORKERS_MAX 64       /* columns in the shared segment */
#define WATCHDOG_SECONDS 10  /* silence of a loop before its worker is ended (architecture 2) */
#define FD_FULL_PERCENT 95   /* of RLIMIT_NOFILE: then 421/BYE, so that files for the database and spool remain */

/* lines and commands */
#define SMTP_LINE_MAX 12288     /* AUTH lines may have 12,288 octets (RFC 4954 4); commands need 512 plus extensions */
#define SMTP_COMMAND_MAX 2048   /* other commands, with ESMTP parameters (RFC 5321 4.5.3.1.4 asks for 512) */
#define SMTP_TEXT_LINE_MAX (1024 * 1024) /* a text line of DATA in memory at once; longer ones are passed on in pieces */
#define POP3_LINE_MAX 512       /* RFC 2449 4 allows 255; AUTH responses need more */
#define POP3_AUTH_LINE_MAX 12288
#define IMAP_LINE_MAX 65536     /* command line without literals: RFC 7162 4 asks for at least 8,192 */
#define IMAP_LITERAL_MAX 65536  /* a literal that is not a message */
#define IMAP_COMMAND_MAX (1024 * 1024) /* all lines and literals of one command but APPEND's message */

/* DNS */
#define DNS_SECONDS 10       /* a question without answer; resolvers themselves give up after about as long */
#define DNS_LOOKUPS_MAX 4096 /* questions of a worker at once, abandoned ones included */

/* messages */
#define MESSAGE_MAX (512u * 1024 * 1024) /* outer bound of the settings: one bytea field ends at 1 GB */
#define HEADER_MAX (1024 * 1024) /* head of a message that is parsed; the rest is stored, but not looked at */
#define HEADER_COUNT_MAX 10000
#define MIME_DEPTH_MAX 100      /* deeper parts are leaves: clients stop long before */
#define MIME_PARTS_MAX 10000    /* later parts belong to the one before */
#define FORWARD_DEPTH_MAX 8     /* forwards of forwards; deeper ones are a circle */
#define MESSAGE_HOOK_MAX (64u * 1024 * 1024) /* a message that ProcessMessage may look at; larger ones pass by it */
#define RECIPIENTS_MAX 10000    /* outer bound of the setting; RFC 5321 4.5.3.1.8 asks for 100 */
#define ADDRESS_MAX 1000        /* octets of an address incl. UTF-8; RFC 5321 4.5.3.1 has 64 + 1 + 255 */

/* storage (architecture 4) */
#define BODY_PART (256 * 1024)     /* larger bodies are stored as rows of this size */
#define BATCH_MESSAGES 64          /* a group commit closes at this many messages */
#define BATCH_BYTES (4 * 1024 * 1024) /* or at this many bytes */
#define DB_POOL 6                  /* connections a worker; the commit connection is one more */
#define DB_STATEMENT_MS 30000      /* a statement that takes longer is ended by the server */
#define PAGE_ENTRIES 256           /* messages in a full index page */
#define PAGE_TAIL_ENTRIES 64       /* messages in the tail page */
#define KEYWORDS_MAX 24            /* keywords a mailbox: bits 8..31 of the flags column */
#define MAILBOX_NAME_MAX 1000      /* octets of a mailbox name */
#define MAILBOXES_MAX 20000        /* mailboxes an account */

/* scripts (architecture 3).  A call is one run of a hook; management runs have their own bounds. */
#define SCRIPT_TICK 1000            /* Lua instructions between two looks at the clock: about 10 us */
#define SCRIPT_SLICE_MS 10          /* then the loop gets a turn */
#define SCRIPT_CPU_MS 2000          /* computing time of a call */
#define SCRIPT_WALL_MS 60000        /* time of a call with all its waits */
#define SCRIPT_MEMORY (32u << 20)   /* growth of an environment's memory in a call */
#define SCRIPT_MEMORY_LIFE 4        /* times that, what an environment may hold from call to call */
#define SCRIPT_QUERIES 200          /* database questions of a call */
#define SCRIPT_WAITS 1000           /* waits of any kind in a call */
#define SCRIPT_MESSAGE_SECONDS 45   /* all hooks after the final dot: clients wait 10 minutes (RFC 5321 4.5.3.2.6), relays less */
#define SCRIPT_OUTPUT (256u * 1024) /* bytes that a call may print */
#define SCRIPT_RUN_CPU_MS 600000    /* management runs and scheduler.lua */
#define SCRIPT_RUN_WALL_MS 3600000
#define SCRIPT_RUN_MEMORY (512u << 20)
#define SCRIPT_RUN_OUTPUT (16u << 20)
#define SCRIPT_HOST_MEMORY (2048ul << 20) /* all Lua memory of a process; beyond it calls fail */
#define SCRIPT_GC_START (8ul << 20)  /* Lua memory below which nothing is collected */
#define SCRIPT_GC_PACE (64u * 1024)  /* bytes allocated per step of the collector: a step is some 0.3 ms and gets through ten times that */
#define SCRIPT_TICK_WORK 3000000u    /* bytes that the instructions between two looks may walk: 30 ms of the slowest comparison */
#define SCRIPT_PATTERN_MAX (64u * 1024)  /* a Lua pattern that is not plain text, a format of string.pack */
#define SCRIPT_LOAD_MAX (64u * 1024)      /* text given to load() */
#define SCRIPT_SOURCE_MAX (1024u * 1024)  /* a stored script */
#define SCRIPT_STACK_MIN (56 * 1024)  /* left on a task's stack before C code calls Lua again: 200 metamethod levels need 50 KB */
#define SCRIPT_STACK_PARSE (144 * 1024) /* left before a text is compiled: the parser recurses 200 deep */
#define SCRIPT_VALUE_DEPTH 32       /* tables within tables that cross the border to C */
#define SCRIPT_VALUE_NODES 200000   /* values in one such table */
#define SCRATCH_NICE 10             /* scratch processes give way to mail */
#define SCRATCH_WALL_SECONDS 3600
#define SCRATCH_TRY_SECONDS 60      /* tests before a script is saved: somebody waits for them */
#define SCRATCH_MEMORY (1536ul << 20) /* address space: SCRIPT_RUN_MEMORY twice over, libraries, stacks */
#define SCRATCH_FILE (1024ul << 20) /* a file it writes */
#define SCRIPT_SENDS 20             /* messages that one call of a hook may send */
#define SCRIPT_SEND_MAX (4u << 20)  /* bytes of a field of SendMessage */
#define RECEIVERS_SENT_MAX 100      /* recipients of such a message */
#define SCRIPT_FILES 16             /* files that a call has open at once */
#define SCRIPT_CACHE_ENTRIES 20000  /* mail.cache of a process */
#define SCRIPT_CACHE_BYTES (32u << 20)
#define SCRIPT_CACHE_VALUE (256u * 1024)
#define SCRIPT_RELEASES 3           /* releases a worker keeps at once */
#define SCRIPT_STALE_SECONDS 600    /* age of an SMTP session at which a new release ends it */
#define SCRIPT_SQL_ROWS 10000       /* rows of VPOP3.PostgresQuery */
#define SCRIPT_REGEX_MAX 4096       /* bytes of a regular expression */
#define SCRIPT_REGEX_STEPS 1000000u /* PCRE2 match limit: about 20 ms */
#define SCRIPT_REGEX_HEAP_KB 2048
#define HOOK_STEPS_MAX 4096         /* decision ledger of one message (architecture 3) */
