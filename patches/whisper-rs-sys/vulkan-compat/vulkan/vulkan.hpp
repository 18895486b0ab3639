// Stands before the system's <vulkan/vulkan.hpp> and adds what ggml-vulkan names but headers before 1.3.272 lack:
// the C++ types of VK_EXT_layer_settings. Layout and values as the Vulkan specification gives them. With newer headers
// it adds nothing.
#ifndef WHISPER_BACKEND_VULKAN_COMPAT_HPP
#define WHISPER_BACKEND_VULKAN_COMPAT_HPP

#include_next <vulkan/vulkan.hpp>

#ifndef VK_EXT_layer_settings

#include <cstdint>
#include <vector>

namespace vk {

// VkLayerSettingTypeEXT; ggml uses booleans only.
enum class LayerSettingTypeEXT : int32_t { eBool32 = 0 };

// VkLayerSettingEXT
struct LayerSettingEXT {
    const char * pLayerName;
    const char * pSettingName;
    LayerSettingTypeEXT type;
    uint32_t valueCount;
    const void * pValues;
};

// VkLayerSettingsCreateInfoEXT. A driver or layer that does not know its number skips it.
struct LayerSettingsCreateInfoEXT {
    int32_t sType = 1000496000;  // VK_STRUCTURE_TYPE_LAYER_SETTINGS_CREATE_INFO_EXT
    const void * pNext = nullptr;
    uint32_t settingCount;
    const LayerSettingEXT * pSettings;

    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : settingCount(static_cast<uint32_t>(settings.size())), pSettings(settings.data()) {}
};

}  // namespace vk

#endif  // VK_EXT_layer_settings
#endif  // WHISPER_BACKEND_VULKAN_COMPAT_HPP
