# One place for the flags every target of the project is built with.
add_library(electra_flags INTERFACE)
# nvcc splits a kernel into files of its own making, which -Wpedantic does not like.
target_compile_options(electra_flags INTERFACE -Wall -Wextra $<$<COMPILE_LANGUAGE:CXX>:-Wpedantic>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC bug 105651: std::string's insert is reported wherever it is inlined.
  target_compile_options(electra_flags INTERFACE -Wno-restrict)
endif()
if(ELECTRA_WERROR)
  target_compile_options(electra_flags INTERFACE -Werror)
endif()
if(ELECTRA_SANITIZE)
  target_compile_options(electra_flags INTERFACE -fsanitize=${ELECTRA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(electra_flags INTERFACE -fsanitize=${ELECTRA_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC says itself that this warning is unreliable under its sanitizers; here it fires inside <regex>.
    target_compile_options(electra_flags INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()

# electra_library(NAME HEADERS … SOURCES … LINKS …): one floor of the architecture. Headers form a file set, so that
# VERIFY_INTERFACE_HEADER_SETS checks that each compiles alone.
function(electra_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;SOURCES;LINKS;PRIVATE_LINKS")
  add_library(${name} STATIC ${arg_SOURCES})
  target_sources(${name} PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}" FILES ${arg_HEADERS})
  target_include_directories(${name} PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>")
  target_link_libraries(${name} PUBLIC ${arg_LINKS} PRIVATE "$<BUILD_INTERFACE:electra_flags>" ${arg_PRIVATE_LINKS})

  string(REGEX REPLACE "^electra_" "" short_name ${name})
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${short_name})
  add_library(electra::${short_name} ALIAS ${name})
  set_property(GLOBAL APPEND PROPERTY ELECTRA_LIBRARIES ${name})
endfunction()
