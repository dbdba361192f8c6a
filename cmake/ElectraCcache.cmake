# Compiles through ccache where it is installed. Paths below the source tree count as relative and the build directory does
# not count, so that presets with equal flags (release, cpu) and a copy of the tree (tests/mutations) share the cache.
find_program(ELECTRA_CCACHE ccache)
mark_as_advanced(ELECTRA_CCACHE)
if(ELECTRA_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=1 "${ELECTRA_CCACHE}")
endif()
